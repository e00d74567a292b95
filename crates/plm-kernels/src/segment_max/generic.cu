// Maximum pooling over residues.
#include "cuda/common.cuh"

// `maxima` `[num_sequences, hidden]`, in f32. A block is one sequence (x) and a stretch of columns
// (y); a thread has one 16-byte vector of columns. The first and the last row, the special tokens,
// are left out. A NaN stays: `fmaxf` would hide it.
template <typename T>
__device__ inline void max_of_residues(const T *x, const uint32_t *cu_seqlens, float *maxima, int hidden) {
  constexpr int N = VEC<T>;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= hidden) {
    return;
  }
  const uint32_t start = cu_seqlens[blockIdx.x] + 1, end = cu_seqlens[blockIdx.x + 1] - 1;
  float highest[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    highest[i] = -INFINITY;
  }
#pragma unroll 8
  for (uint32_t row = start; row < end; ++row) {
    const Vec<T, N> vec = load_vec<T, N>(x + static_cast<size_t>(row) * hidden + column);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float value = to_f32(vec.values[i]);
      if (value > highest[i] || isnan(value)) {
        highest[i] = value;
      }
    }
  }
  float *to = maxima + static_cast<size_t>(blockIdx.x) * hidden + column;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = highest[i];
  }
}

#define SEGMENT_MAX(T, NAME)                                                                                           \
  extern "C" __global__ void segment_max_##NAME(const T *x, const uint32_t *cu_seqlens, float *maxima, int hidden) {   \
    max_of_residues<T>(x, cu_seqlens, maxima, hidden);                                                                 \
  }

SEGMENT_MAX(float, f32)
SEGMENT_MAX(__half, f16)
SEGMENT_MAX(__nv_bfloat16, bf16)
