// Layer normalisation of queries and keys, and what they get before attention: query scale and
// rotary positions, as in `products/tiles`. In place, and rounded once.
#include "contract.cuh"

// What follows a product asks for it. Here nothing is cut into tiles.
constexpr int OUTPUTS = contract::WIDE_TILE_OUTPUTS;

#include "products/tiles/then.cuh"

namespace {

constexpr int HEADS_TOGETHER = 32 / 4; // of a warp, whose threads take a head by fours
constexpr int STEPS = contract::QUERY_KEY_NORM_HEADS / HEADS_TOGETHER;

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, offset);
  }
  return value;
}

// A warp has the queries of a row, or its keys.
template <typename T>
__device__ inline void rotate(T *qkv, const T *weights, const Rotary<T> &rotary, const Shape &shape, float eps) {
  const int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int row = warp / 2, part = warp % 2, hidden = shape.outputs / 3;
  if (row >= shape.rows) {
    return;
  }
  T *own = qkv + static_cast<size_t>(row) * shape.outputs + part * hidden;
  const int first = lane() / 4 * HEAD_DIM;

  Values values[STEPS];
  float sum = 0.0f;
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    const int head = first + step * HEADS_TOGETHER * HEAD_DIM;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pairs pairs = {};
      if (head < hidden) {
        pairs = load_pairs(own + head + Place::column(half));
      }
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 pair = unpack<T>(pairs.values[i / 2]);
        values[step][half][i] = pair.x;
        values[step][half][i + 1] = pair.y;
        sum += pair.x + pair.y;
      }
    }
  }
  typename Rotary<T>::OfTile of_row;
  of_row.positions[0] = rotary.positions[row];
  typename Rotary<T>::Loaded angles;
  rotary.load(angles, of_row, {row, 0, 0, 0}, shape);
  const float mean = warp_sum(sum) / hidden;

  float squares = 0.0f;
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    if (first + step * HEADS_TOGETHER * HEAD_DIM < hidden) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          const float deviation = values[step][half][i] - mean;
          squares = fmaf(deviation, deviation, squares);
        }
      }
    }
  }
  const float inverse_deviation = 1.0f / sqrtf(warp_sum(squares) / hidden + eps);

#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    const int head = first + step * HEADS_TOGETHER * HEAD_DIM;
    if (head < hidden) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pairs gains = load_pairs(weights + part * hidden + head + Place::column(half));
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
          const float2 gain = unpack<T>(gains.values[i / 2]);
          values[step][half][i] = (values[step][half][i] - mean) * inverse_deviation * gain.x;
          values[step][half][i + 1] = (values[step][half][i + 1] - mean) * inverse_deviation * gain.y;
        }
      }
      rotary.apply(values[step], angles, of_row, {row, part * hidden + head, 0, 0}, shape);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t four[VECTOR / 2];
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
          four[i / 2] = pack<T>(values[step][half][i], values[step][half][i + 1]);
        }
        store_block(own + head + Place::column(half), {four[0], four[1], four[2], four[3]});
      }
    }
  }
}

} // namespace

// `qkv` `[rows, outputs]`, `weights` `[2, outputs / 3]`.
#define ROTATE(T, NAME)                                                                                                \
  extern "C" __global__ void rotate_query_key_norm_##NAME(T *qkv, const T *weights, Rotary<T> rotary, int rows,        \
                                                          int outputs, float eps) {                                    \
    rotate<T>(qkv, weights, rotary, {rows, 0, outputs}, eps);                                                          \
  }

ROTATE(__half, f16)
ROTATE(__nv_bfloat16, bf16)
