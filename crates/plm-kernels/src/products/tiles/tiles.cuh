// How the products of `linear.cuh` are cut into tiles, and what a thread holds of one. `OUTPUTS` of
// a tile, and so of its cluster and of each of its blocks, are said by the file that includes this.
#pragma once

#include "cuda/hopper.cuh"

namespace {

constexpr int ROWS = contract::TILE_ROWS; // of a block
constexpr int STEP_BYTES = contract::BOX_BYTES;
constexpr int CLUSTER = contract::TILE_CLUSTER;
// Row tiles that the GPU works on side by side, so that what is read of both operands at a time
// fits the L2 cache.
constexpr int ROW_TILES_TOGETHER = 8;
constexpr int HEAD_DIM = contract::HOPPER_HEAD_DIM;
// What follows a product is done in pieces, each of one row of a thread and one head.
constexpr int PIECES = 2 * OUTPUTS / HEAD_DIM;
constexpr int VECTOR = 8;    // neighbouring outputs of a thread
constexpr int BETWEEN = 32;  // from one of its vectors to the next
// A piece after so many steps of the product.
template <typename X> constexpr int STEPS_PER_PIECE = sizeof(X) == 1 ? 1 : 2;
template <typename X> constexpr int LEAST_STEPS = PIECES * STEPS_PER_PIECE<X>;

// Inputs that are multiplied per step.
template <typename T> constexpr int INPUTS = STEP_BYTES / sizeof(T);
static_assert(LEAST_STEPS<__half> * INPUTS<__half> == OUTPUTS * contract::TILE_LEAST_INPUTS_PER_OUTPUT,
              "the host reckons with as many");

struct Shape {
  int rows, inputs, outputs;

  // Inputs that are multiplied: enough for the pieces. Behind the last of its inputs a row reads as
  // zeros.
  template <typename X> __device__ int multiplied() const { return max(inputs, LEAST_STEPS<X> * INPUTS<X>); }
};

// The `index`-th tile, of `CLUSTER * ROWS` rows and `OUTPUTS` outputs.
struct Tile {
  int row;
  int output;

  __device__ Tile(int index, const Shape &shape) {
    const int row_tiles = (shape.rows + CLUSTER * ROWS - 1) / (CLUSTER * ROWS);
    const int output_tiles = (shape.outputs + OUTPUTS - 1) / OUTPUTS;
    const int in_group = ROW_TILES_TOGETHER * output_tiles;
    const int first = index / in_group * ROW_TILES_TOGETHER;
    const int together = min(ROW_TILES_TOGETHER, row_tiles - first);
    row = (first + index % in_group % together) * CLUSTER * ROWS;
    output = index % in_group / together * OUTPUTS;
  }

  __device__ static int count(const Shape &shape) {
    return (shape.rows + CLUSTER * ROWS - 1) / (CLUSTER * ROWS) * ((shape.outputs + OUTPUTS - 1) / OUTPUTS);
  }

  // Of this block.
  __device__ int first_row() const { return row + cluster_rank() * ROWS; }
};

// `to` gets what is in `from` from `first` on, up to its end, by a warp.
template <typename T, int COUNT> __device__ inline void fetch(T (&to)[COUNT], const T *from, int first, int end) {
#pragma unroll 4
  for (int i = lane(); i < COUNT; i += 32) {
    if (first + i < end) {
      to[i] = from[first + i];
    }
  }
}

// Where a piece is in the result, and in its tile.
struct Place {
  int row;
  int head; // its first column
  int row_of_tile;
  int head_of_tile;

  // Of a head, the first column of a thread's vector in either half.
  __device__ static int column(int half) { return half * BETWEEN + lane() % 4 * VECTOR; }
};

// What a thread holds of a piece: a vector of each half of the head.
using Values = float[2][VECTOR];

// A vector in 16 bits.
using Pairs = Vec<uint32_t, VECTOR / 2>;

template <typename T> __device__ inline Pairs load_pairs(const T *from) {
  return load_vec<uint32_t, VECTOR / 2>(reinterpret_cast<const uint32_t *>(from));
}

} // namespace
