// Token embeddings, with ESM-2's token-dropout rescale and ESM-1b's learned positions.
#include "cuda/common.cuh"

// Of each sequence, the share of tokens that are not masked: `kept` `[num_sequences]`. One warp per
// sequence.
extern "C" __global__ void kept_fraction(const uint32_t *token_ids, const uint32_t *cu_seqlens, uint32_t mask_token_id,
                                         float *kept) {
  const uint32_t start = cu_seqlens[blockIdx.x], end = cu_seqlens[blockIdx.x + 1];
  int masked = 0;
  for (uint32_t token = start + threadIdx.x; token < end; token += 32) {
    masked += token_ids[token] == mask_token_id;
  }
  masked = __reduce_add_sync(0xffffffff, masked);
  if (threadIdx.x == 0) {
    kept[blockIdx.x] = 1.0f - static_cast<float>(masked) / static_cast<float>(end - start);
  }
}

// One block per token. Without token dropout `kept` is null, and without learned positions
// `positions` is; without both, embeddings are copied. `LearnedPositions` says which row a position
// has.
template <typename T>
__device__ inline void embed_token(const T *table, uint32_t vocabulary, const uint32_t *token_ids, const uint32_t *cu_seqlens,
                                   int num_sequences, const float *kept, uint32_t mask_token_id,
                                   float kept_in_training, const T *positions, uint32_t rows, uint32_t padding_id,
                                   T *embeddings, int hidden) {
  constexpr int N = VEC<T>;
  const uint32_t id = token_ids[blockIdx.x];
  bool is_known = id < vocabulary;
  const T *from = table + static_cast<size_t>(is_known ? id : 0) * hidden;
  T *to = embeddings + static_cast<size_t>(blockIdx.x) * hidden;
  const bool is_changed = kept != nullptr || positions != nullptr;
  const int sequence = is_changed ? sequence_of(cu_seqlens, num_sequences, blockIdx.x) : 0;
  const float kept_here = kept == nullptr ? 1.0f : kept[sequence];
  const T *position = nullptr;
  if (positions != nullptr) {
    const uint32_t row = id == padding_id ? padding_id : padding_id + 1 + (blockIdx.x - cu_seqlens[sequence]);
    is_known = is_known && row < rows;
    position = positions + static_cast<size_t>(row < rows ? row : 0) * hidden;
  }
  for (int column = threadIdx.x * N; column < hidden; column += blockDim.x * N) {
    Vec<T, N> vec = load_vec<T, N>(from + column);
    if (is_changed) {
      Vec<T, N> added;
      if (position != nullptr) {
        added = load_vec<T, N>(position + column);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float value = to_f32(vec.values[i]);
        if (kept != nullptr) {
          value = id == mask_token_id ? 0.0f : value * kept_in_training / kept_here;
        }
        if (position != nullptr) {
          value += to_f32(added.values[i]);
        }
        vec.values[i] = from_f32<T>(value);
      }
    }
    if (!is_known) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        vec.values[i] = from_f32<T>(NAN);
      }
    }
    store_vec<T, N>(to + column, vec);
  }
}

#define EMBED_TOKENS(T, NAME)                                                                                          \
  extern "C" __global__ void embed_tokens_##NAME(const T *table, uint32_t vocabulary, const uint32_t *token_ids,       \
                                                 const uint32_t *cu_seqlens, int num_sequences, const float *kept,     \
                                                 uint32_t mask_token_id, float kept_in_training, const T *positions,   \
                                                 uint32_t rows, uint32_t padding_id, T *embeddings, int hidden) {      \
    embed_token<T>(table, vocabulary, token_ids, cu_seqlens, num_sequences, kept, mask_token_id, kept_in_training,     \
                   positions, rows, padding_id, embeddings, hidden);                                                   \
  }

EMBED_TOKENS(float, f32)
EMBED_TOKENS(__half, f16)
EMBED_TOKENS(__nv_bfloat16, bf16)
