// Layer normalisation of queries and keys, in place: mean, variance about the mean, result.
#include "cuda/rows.cuh"

// `qkv` `[rows, 3 * hidden]`, `weights` `[2, hidden]`. A block has rows (x) of queries, or of keys
// (y).
template <typename T>
__device__ inline void query_key_norm_rows(T *qkv, const T *weights, int rows, int hidden, float eps) {
  constexpr int N = VEC<T>;
  __shared__ float scratch[2][MAX_THREADS / 32];
  const bool is_row = row_of_thread() < rows;
  T *row = qkv + row_of_thread() * 3 * hidden + blockIdx.y * hidden;
  const T *weight = weights + blockIdx.y * hidden;

  float values[VECTORS][N];
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    const bool is_there = is_row && column < hidden;
    Vec<T, N> in;
    if (is_there) {
      in = load_vec<T, N>(row + column);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[v][i] = is_there ? to_f32(in.values[i]) : 0.0f;
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += values[v][i];
    }
  }
  const float mean = row_sum(sum, scratch[0]) / hidden;

  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    if ((v * blockDim.x + threadIdx.x) * N < hidden) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float deviation = values[v][i] - mean;
        squares += deviation * deviation;
      }
    }
  }
  const float inverse_deviation = 1.0f / sqrtf(row_sum(squares, scratch[1]) / hidden + eps);

#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (is_row && column < hidden) {
      const Vec<T, N> scale = load_vec<T, N>(weight + column);
      Vec<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        out.values[i] = from_f32<T>((values[v][i] - mean) * inverse_deviation * to_f32(scale.values[i]));
      }
      store_vec<T, N>(row + column, out);
    }
  }
}

#define QUERY_KEY_NORM(T, NAME)                                                                                        \
  extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                                            \
      query_key_norm_##NAME(T *qkv, const T *weights, int rows, int hidden, float eps) {                               \
    query_key_norm_rows<T>(qkv, weights, rows, hidden, eps);                                                           \
  }

QUERY_KEY_NORM(float, f32)
QUERY_KEY_NORM(__half, f16)
QUERY_KEY_NORM(__nv_bfloat16, bf16)
