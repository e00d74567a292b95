// What layer norms need to know of rows that no product has added to: see `products/tiles`.
#include "cuda/rows.cuh"

namespace {

template <typename T> __device__ inline void moments_of_rows(const T *x, float2 *moments, int rows, int width) {
  constexpr int N = VEC<T>;
  __shared__ float scratch[2][MAX_THREADS / 32];
  const bool is_row = row_of_thread() < rows;

  float2 sums = {0.0f, 0.0f};
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (is_row && column < width) {
      const Vec<T, N> in = load_vec<T, N>(x + row_of_thread() * width + column);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float value = to_f32(in.values[i]);
        sums.x += value;
        sums.y = fmaf(value, value, sums.y);
      }
    }
  }
  sums.x = row_sum(sums.x, scratch[0]);
  sums.y = row_sum(sums.y, scratch[1]);
  if (is_row && threadIdx.x == 0) {
    moments[row_of_thread()] = sums;
  }
}

} // namespace

// `moments` `[rows]` of `x` `[rows, width]`: the sum of a row's numbers, and of their squares.
#define MOMENTS(T, NAME)                                                                                               \
  extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                                            \
      moments_##NAME(const T *x, float2 *moments, int rows, int width) {                                               \
    moments_of_rows(x, moments, rows, width);                                                                          \
  }

MOMENTS(__half, f16)
MOMENTS(__nv_bfloat16, bf16)
