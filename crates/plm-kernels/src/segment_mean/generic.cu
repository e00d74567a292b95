// Mean pooling over residues.
#include "cuda/common.cuh"

// Rows that are summed on their own before they join the total, as on the CPU.
constexpr uint32_t ROWS_PER_PARTIAL_SUM = contract::ROWS_PER_PARTIAL_SUM;

// `means` `[num_sequences, hidden]`, in f32. A block is one sequence (x) and a stretch of columns
// (y); a thread sums one 16-byte vector of columns. The first and the last row, the special tokens,
// are left out.
template <typename T>
__device__ inline void mean_of_residues(const T *x, const uint32_t *cu_seqlens, float *means, int hidden) {
  constexpr int N = VEC<T>;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= hidden) {
    return;
  }
  const uint32_t start = cu_seqlens[blockIdx.x] + 1, end = cu_seqlens[blockIdx.x + 1] - 1;
  float totals[N] = {};
  for (uint32_t block = start; block < end; block += ROWS_PER_PARTIAL_SUM) {
    const uint32_t block_end = min(end, block + ROWS_PER_PARTIAL_SUM);
    float partial[N] = {};
#pragma unroll 8
    for (uint32_t row = block; row < block_end; ++row) {
      const Vec<T, N> vec = load_vec<T, N>(x + static_cast<size_t>(row) * hidden + column);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        partial[i] += to_f32(vec.values[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      totals[i] += partial[i];
    }
  }
  const float residues = static_cast<float>(end - start);
  float *to = means + static_cast<size_t>(blockIdx.x) * hidden + column;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = totals[i] / residues;
  }
}

#define SEGMENT_MEAN(T, NAME)                                                                                          \
  extern "C" __global__ void segment_mean_##NAME(const T *x, const uint32_t *cu_seqlens, float *means, int hidden) {   \
    mean_of_residues<T>(x, cu_seqlens, means, hidden);                                                                 \
  }

SEGMENT_MEAN(float, f32)
SEGMENT_MEAN(__half, f16)
SEGMENT_MEAN(__nv_bfloat16, bf16)
