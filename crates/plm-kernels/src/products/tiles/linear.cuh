// Products of rows with a matrix of weights, their bias, and what comes before and after them, in
// one kernel for Hopper:
//
// - exact GELU, or SwiGLU (the first feed-forward projection),
// - query scale and rotary positions (the fused query-key-value projection),
// - the residual stream (the other two projections),
// - nothing.
//
// A file that includes this says how many outputs a tile has (`OUTPUTS`), and lists its kernels.
//
// Operands are of 16 bits, and then layer norms are part of the products: those onto the residual
// stream give the moments of its rows, and the others take rows over their deviation. Or they are
// 8-bit integers with a scale for each row of `x` and of the weights; then GELU also gets a shift
// and a factor per output, so that what is quantised next is positive and alike in all columns.
//
// Two blocks of a cluster compute 128 rows each by the same outputs. One thread of each keeps
// the copy engine busy (its own rows, and one half of the weights for both blocks), one warp
// fetches the bias and what else goes with a tile's rows and outputs, and two warpgroups multiply
// 64 rows each. The grid is as large as the GPU and goes over all tiles. A warpgroup adds the bias,
// and in 16 bits the residual stream, to a finished tile, rounds it and begins to multiply the
// next; what follows the product is done piece by piece while the tensor cores work, and the next
// tile's stream is loaded into the pieces' place.
//
// Of each 8 columns of a product a row's four threads get two each. So that a thread has 8
// neighbours of each 32 outputs, the copy engine lays the weights' rows in shared memory in that
// order.
//
// Sums run over the inputs in one order, in f32 (of 8-bit integers in whole numbers), whatever the
// number of rows: a row's bits depend on that row alone.
#pragma once

#include "factors.cuh"
#include "then.cuh"

namespace {

constexpr int CONSUMERS = 2; // warpgroups
constexpr int THREADS = contract::TILE_THREADS;
static_assert(THREADS == WARPGROUP * (1 + CONSUMERS), "the first warpgroup keeps the copy engine busy");
static_assert(ROWS == CONSUMERS * 64, "a warpgroup multiplies 64 rows");
constexpr int SHARED_BYTES = contract::TILE_SHARED_BYTES;
constexpr int PRODUCER_REGISTERS = 24;
constexpr int CONSUMER_REGISTERS = 240;
static_assert(WARPGROUP * (PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS) <= THREADS * registers_at_first(THREADS));

template <typename T> struct Stage {
  T x[ROWS * INPUTS<T>];
  T weight[OUTPUTS * INPUTS<T>];
};
// As many as there is room for, beside some for what is fetched for tiles.
constexpr int STAGES = (SHARED_BYTES - 8 * 1024) / sizeof(Stage<__half>);

// What is fetched for a tile.
template <typename Factors, typename Then> struct OfTile {
  typename Factors::OfTile factors;
  typename Then::OfTile then;
};

template <typename X, typename Factors, typename Then> struct Shared {
  Stage<X> stages[STAGES];
  // Of the tile that is finished, and of the next.
  OfTile<Factors, Then> of_tiles[2];
  uint64_t filled[STAGES];
  uint64_t used[STAGES];
  uint64_t of_tile_filled[2];
  uint64_t of_tile_used[2];
};

// By one thread: all that is multiplied.
template <typename T, typename Factors, typename Then>
__device__ inline void produce(Shared<T, Factors, Then> &shared, const CUtensorMap &x, const CUtensorMap &weight,
                               const Shape &shape) {
  constexpr int SHARE = OUTPUTS / CLUSTER;
  const int rank = cluster_rank(), clusters = gridDim.x / CLUSTER;
  const uint64_t policy = to_be_kept();
  Position<STAGES> at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    for (int input = 0; input < shape.multiplied<T>(); input += INPUTS<T>) {
      Stage<T> &stage = shared.stages[at.index];
      barrier_wait(&shared.used[at.index], at.parity ^ 1);
      barrier_expect(&shared.filled[at.index], sizeof(Stage<T>));
      copy_box(stage.x, x, &shared.filled[at.index], input, tile.first_row());
      copy_rows_to_all(stage.weight + rank * SHARE * INPUTS<T>, weight, &shared.filled[at.index], input,
                       (tile.output + rank * SHARE) / BETWEEN, (1 << CLUSTER) - 1, policy);
      at.advance();
    }
  }
}

// By one warp: what is fetched for tiles. Read where it is needed, each thread would wait for it
// eight times per tile.
template <typename T, typename Factors, typename Then>
__device__ inline void fetch_for_tiles(Shared<T, Factors, Then> &shared, const Shape &shape, const Factors &factors,
                                       const Then &then) {
  const int clusters = gridDim.x / CLUSTER;
  Position<2> at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    barrier_wait(&shared.of_tile_used[at.index], at.parity ^ 1);
    factors.fetch_for(shared.of_tiles[at.index].factors, tile, shape);
    then.fetch_for(shared.of_tiles[at.index].then, tile, shape);
    barrier_arrive(&shared.of_tile_filled[at.index]);
    at.advance();
  }
}

// A warpgroup that multiplies numbers of format X, for results in Y.
template <typename X, typename Y, typename Factors, typename Then> struct Consumer {
  using Sum = typename Products<X>::Sum;

  Shared<X, Factors, Then> &shared;
  Y *y;
  const Shape &shape;
  const Then &then;
  int group, thread;
  // Its first row, of a block's.
  int row_of_tile;
  Position<STAGES> at;
  // Of the next tile to be finished.
  Position<2> next;
  // A finished tile, rounded: of the rows `row` and `row + 8`. Where a piece has been stored, what
  // the next tile is added to.
  Pairs pieces[PIECES][2];
  typename Then::Loaded loaded;
  typename Then::Taken taken;
  int row = -1, output = 0;

  __device__ Consumer(Shared<X, Factors, Then> &shared, Y *y, const Shape &shape, const Then &then, int group)
      : shared(shared), y(y), shape(shape), then(then), group(group), thread(threadIdx.x % WARPGROUP),
        row_of_tile(group * 64 + thread / 32 * 16 + lane() / 4) {}

  __device__ void run() {
    const int clusters = gridDim.x / CLUSTER;
    for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
      const Tile tile(index, shape);
      Sum sums[OUTPUTS / 2];
#pragma unroll
      for (int step = 0; step < LEAST_STEPS<X>; ++step) {
        multiply(sums, step > 0);
        if (step % STEPS_PER_PIECE<X> == 0) {
          const int piece = step / STEPS_PER_PIECE<X>;
          if (row >= 0) {
            follow(piece);
          }
          if (Then::IS_ONTO) {
            load_residual(piece, tile);
          }
        }
        if (step > 0) {
          release();
        }
        at.advance();
      }
      for (int input = LEAST_STEPS<X> * INPUTS<X>; input < shape.inputs; input += INPUTS<X>) {
        multiply(sums, true);
        release();
        at.advance();
      }
      products_wait<0>();
      tell_used((at.index + STAGES - 1) % STAGES);
      finish(sums, tile);
    }
    if (row >= 0) {
#pragma unroll
      for (int piece = 0; piece < PIECES; ++piece) {
        follow(piece);
      }
    }
  }

  __device__ void multiply(Sum (&sums)[OUTPUTS / 2], bool is_onto) {
    barrier_wait(&shared.filled[at.index], at.parity);
    const uint64_t x = matrix_at(shared.stages[at.index].x + group * 64 * INPUTS<X>);
    const uint64_t weight = matrix_at(shared.stages[at.index].weight);
    products_begin();
#pragma unroll
    for (int bytes = 0; bytes < STEP_BYTES; bytes += 32) {
      Products<X>::multiply(sums, matrix_from(x, bytes), matrix_from(weight, bytes), bytes > 0 || is_onto);
    }
    products_commit();
  }

  // Lets the stage before the one that is being multiplied be filled again.
  __device__ void release() {
    products_wait<1>();
    tell_used((at.index + STAGES - 1) % STAGES);
  }

  // One thread tells one block.
  __device__ void tell_used(int stage) {
    if (thread < CLUSTER) {
      barrier_arrive_at(&shared.used[stage], thread);
    }
  }

  // What was fetched for the last tile that was finished.
  __device__ OfTile<Factors, Then> &of_tile() { return shared.of_tiles[next.index ^ 1]; }

  // Rounds a tile's sums.
  __device__ void finish(const Sum (&sums)[OUTPUTS / 2], const Tile &tile) {
    if (row >= 0) {
      // No lane needs any more what was fetched for the tile before.
      __syncwarp();
      if (lane() == 0) {
        barrier_arrive(&shared.of_tile_used[next.index ^ 1]);
      }
    }
    barrier_wait(&shared.of_tile_filled[next.index], next.parity);
    next.advance();
    row = tile.first_row() + row_of_tile;
    output = tile.output;
    const typename Factors::OfTile &factors = of_tile().factors;
    const auto upper = Factors::of_row(factors, row_of_tile), lower = Factors::of_row(factors, row_of_tile + 8);
#pragma unroll
    for (int n = 0; n < OUTPUTS / BETWEEN; ++n) {
      const auto of_outputs = Factors::of_outputs(factors, n * BETWEEN + lane() % 4 * VECTOR);
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const Sum *four = sums + n * 16 + i * 2;
        round(pieces[n / 2][n % 2].values[i / 2], Factors::finished(four[0], upper, of_outputs, i),
              Factors::finished(four[1], upper, of_outputs, i + 1));
        round(pieces[PIECES / 2 + n / 2][n % 2].values[i / 2], Factors::finished(four[2], lower, of_outputs, i),
              Factors::finished(four[3], lower, of_outputs, i + 1));
      }
    }
    load(0);
  }

  // A finished pair, onto what is in its place if that is the residual stream.
  __device__ static void round(uint32_t &pair, float first, float second) {
    if (Then::IS_ONTO) {
      const float2 residual = unpack<Y>(pair);
      pair = pack<Y>(first + residual.x, second + residual.y);
    } else {
      pair = pack<Y>(first, second);
    }
  }

  __device__ static Place place_of(int piece, int row, int row_of_tile, int output) {
    const int rows = piece / (PIECES / 2) * 8, head = piece % (PIECES / 2) * HEAD_DIM;
    return {row + rows, output + head, row_of_tile + rows, head};
  }

  __device__ Place place_of(int piece) const { return place_of(piece, row, row_of_tile, output); }

  // Its first vector, of two.
  __device__ size_t offset_of(const Place &place) const {
    return static_cast<size_t>(place.row) * shape.outputs + place.head + place.column(0);
  }

  __device__ void load_residual(int piece, const Tile &tile) {
    if constexpr (Then::IS_ONTO) {
      const Place place = place_of(piece, tile.first_row() + row_of_tile, row_of_tile, tile.output);
      if (place.row < shape.rows && place.head < shape.outputs) {
        const Y *from = then.residual + offset_of(place);
        pieces[piece][0] = load_pairs(from);
        pieces[piece][1] = load_pairs(from + BETWEEN);
      }
    }
  }

  __device__ void load(int piece) {
    const Place place = place_of(piece);
    if (place.head < shape.outputs) {
      then.load(loaded, of_tile().then, place, shape);
    }
  }

  // What follows the product, for a piece, and its way to device memory.
  __device__ void follow(int piece) {
    const Place place = place_of(piece);
    const typename Then::Loaded now = loaded;
    if (piece + 1 < PIECES && (!Then::OF_ROW || (piece + 1) % (PIECES / 2) == 0)) {
      load(piece + 1);
    }
    Pairs(&pairs)[2] = pieces[piece];
    if constexpr (Then::IS_APPLIED) {
      if (place.head < shape.outputs) {
        apply_to<Y>(pairs, then, now, of_tile().then, place, shape);
      }
    } else {
      then.take(taken, pairs, place, shape);
    }
    if (place.row < shape.rows && place.head < shape.outputs) {
      // Of a head of which half is left, the next head's half is beside it.
      Y *to = Then::LEAVES_HALF ? y + static_cast<size_t>(place.row) * (shape.outputs / 2) + place.head / 2 + place.column(0)
                                : y + offset_of(place);
#pragma unroll
      for (int half = 0; half < (Then::LEAVES_HALF ? 1 : 2); ++half) {
        const uint32_t(&four)[VECTOR / 2] = pairs[half].values;
        store_block(to + half * BETWEEN, {four[0], four[1], four[2], four[3]});
      }
    }
  }
};

template <typename X, typename Y, typename Factors, typename Then>
__device__ inline void linear(const CUtensorMap &x, const CUtensorMap &weight, Y *y, const Shape &shape, const Factors &factors,
                              const Then &then) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto &shared = *reinterpret_cast<Shared<X, Factors, Then> *>(memory);
  static_assert(sizeof(shared) <= SHARED_BYTES, "the host asks for too little");
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(&shared.filled[stage], 1);
      barrier_init(&shared.used[stage], CLUSTER * CONSUMERS);
    }
    for (int tile = 0; tile < 2; ++tile) {
      barrier_init(&shared.of_tile_filled[tile], 32);
      barrier_init(&shared.of_tile_used[tile], CONSUMERS * WARPGROUP / 32);
    }
    barrier_init_done();
  }
  cluster_sync();
  if (threadIdx.x < WARPGROUP) {
    registers_give<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) {
      produce(shared, x, weight, shape);
    } else if (threadIdx.x / 32 == 1) {
      fetch_for_tiles(shared, shape, factors, then);
    }
  } else {
    registers_take<CONSUMER_REGISTERS>();
    Consumer<X, Y, Factors, Then>(shared, y, shape, then, threadIdx.x / WARPGROUP - 1).run();
  }
  // No block leaves while the other may still write to its memory.
  __syncwarp();
  cluster_sync();
}

} // namespace

// `y` `[rows, outputs]`, or of half as many columns if the product leaves half, from `x`
// `[rows, inputs]` and `weight` `[outputs, inputs]`. Boxes are of 128 bytes of some rows: a block's
// of `x`; of `weight` a block's share, in the order in which the tensor cores take them. `outputs`
// is a multiple of `HEAD_DIM`.
#define LINEAR(NAME, X, Y, FACTORS, THEN)                                                                              \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)                             \
      linear_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,                 \
                    FACTORS factors, THEN<Y> then, Y *y, int rows, int inputs, int outputs) {                          \
    linear<X>(x, weight, y, {rows, inputs, outputs}, factors, then);                                                   \
  }

// All that there are for operands of 16 bits.
#define LINEAR_IN_16_BITS(NAME, T)                                                                                     \
  LINEAR(gelu_##NAME, T, T, Normalised, Gelu)                                                                          \
  LINEAR(swiglu_##NAME, T, T, Normalised, Swiglu)                                                                      \
  LINEAR(rotary_##NAME, T, T, Normalised, Rotary)                                                                      \
  LINEAR(nothing_##NAME, T, T, Normalised, Nothing)                                                                    \
  LINEAR(residual_moments_##NAME, T, T, Bias, ResidualMoments)
