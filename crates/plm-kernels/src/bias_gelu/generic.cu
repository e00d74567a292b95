// Bias and exact GELU, in place.
#include "cuda/common.cuh"

// Rows of one thread: it keeps their loads in flight together, and the bias in registers.
constexpr int ROWS = contract::BIAS_GELU_ROWS;

__device__ inline float gelu(float x) {
  const float half_x = 0.5f * x;
  return fmaf(half_x, erff(x * 0.70710678118654752440f), half_x);
}

// `x` `[rows, width]`, `bias` `[width]`. A block is `ROWS` rows (x) and a stretch of columns (y); a
// thread has `N` neighbouring columns.
template <typename T, int N>
__device__ inline void bias_gelu_rows(T *x, const T *bias, int rows, int width) {
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= width) {
    return;
  }
  const Vec<T, N> added = load_vec<T, N>(bias + column);
  const int first = blockIdx.x * ROWS;
  T *at = x + static_cast<size_t>(first) * width + column;
  Vec<T, N> values[ROWS];
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    if (first + row < rows) {
      values[row] = load_vec<T, N>(at + static_cast<size_t>(row) * width);
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    if (first + row < rows) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        values[row].values[i] = from_f32<T>(gelu(to_f32(values[row].values[i]) + to_f32(added.values[i])));
      }
      store_vec<T, N>(at + static_cast<size_t>(row) * width, values[row]);
    }
  }
}

// `bias_gelu_*` takes rows that vectors of 16 bytes fill and begin; `bias_gelu_*_scalar` takes any.
#define BIAS_GELU(T, NAME)                                                                                             \
  extern "C" __global__ void bias_gelu_##NAME(T *x, const T *bias, int rows, int width) {                              \
    bias_gelu_rows<T, VEC<T>>(x, bias, rows, width);                                                                   \
  }                                                                                                                    \
  extern "C" __global__ void bias_gelu_##NAME##_scalar(T *x, const T *bias, int rows, int width) {                     \
    bias_gelu_rows<T, 1>(x, bias, rows, width);                                                                        \
  }

BIAS_GELU(float, f32)
BIAS_GELU(__half, f16)
BIAS_GELU(__nv_bfloat16, bf16)
