// The row of each sequence's first token.
#include "cuda/common.cuh"

// `rows` `[num_sequences, hidden]`, in f32. A block is one sequence (x) and a stretch of columns
// (y); a thread copies one 16-byte vector of columns.
template <typename T>
__device__ inline void copy_first_row(const T *x, const uint32_t *cu_seqlens, float *rows, int hidden) {
  constexpr int N = VEC<T>;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= hidden) {
    return;
  }
  const size_t row = cu_seqlens[blockIdx.x];
  const Vec<T, N> vec = load_vec<T, N>(x + row * hidden + column);
  float *to = rows + static_cast<size_t>(blockIdx.x) * hidden + column;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = to_f32(vec.values[i]);
  }
}

#define FIRST_TOKEN(T, NAME)                                                                                           \
  extern "C" __global__ void first_token_##NAME(const T *x, const uint32_t *cu_seqlens, float *rows, int hidden) {     \
    copy_first_row<T>(x, cu_seqlens, rows, hidden);                                                                    \
  }

FIRST_TOKEN(float, f32)
FIRST_TOKEN(__half, f16)
FIRST_TOKEN(__nv_bfloat16, bf16)
