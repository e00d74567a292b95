// The rows of residues, in the format in which they are kept.
#include "cuda/common.cuh"

// `rows` `[total_residues, width]` of `x` `[total_tokens, width]`, without the first and the last
// row of each sequence, the special tokens. A block is one token (x) and a stretch of columns (y).
// A thread has one 16-byte vector of `x`.
template <typename T, typename To>
__device__ inline void gather_residues(const T *x, const uint32_t *cu_seqlens, int num_sequences, To *rows, int width) {
  constexpr int N = VEC<T>;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  const uint32_t token = blockIdx.x;
  const int sequence = sequence_of(cu_seqlens, num_sequences, token);
  if (column >= width || token == cu_seqlens[sequence] || token + 1 == cu_seqlens[sequence + 1]) {
    return;
  }
  const Vec<T, N> vec = load_vec<T, N>(x + static_cast<size_t>(token) * width + column);
  Vec<To, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    out.values[i] = from_f32<To>(to_f32(vec.values[i]));
  }
  // Before it are the residues of this sequence and of those before it, each without two tokens.
  const size_t row = token - 1 - 2 * static_cast<size_t>(sequence);
  store_vec<To, N>(rows + row * width + column, out);
}

#define RESIDUE_ROWS_TO(T, NAME, TO, TO_NAME)                                                                          \
  extern "C" __global__ void residue_rows_##NAME##_##TO_NAME(const T *x, const uint32_t *cu_seqlens,                   \
                                                             int num_sequences, TO *rows, int width) {                 \
    gather_residues<T, TO>(x, cu_seqlens, num_sequences, rows, width);                                                 \
  }

#define RESIDUE_ROWS(T, NAME)                                                                                          \
  RESIDUE_ROWS_TO(T, NAME, float, f32)                                                                                 \
  RESIDUE_ROWS_TO(T, NAME, __half, f16)

RESIDUE_ROWS(float, f32)
RESIDUE_ROWS(__half, f16)
RESIDUE_ROWS(__nv_bfloat16, bf16)
