// Softmax attention within each sequence of a packed batch, for Hopper and heads of 64: from queries, keys and values that
// have their bias and positions (`linear.cu`) to the weighted sums of values.
//
// A block takes 128 query rows of one head of one sequence, counted from the sequence's own start, 64 for each of two
// warpgroups, and goes over the sequence's keys in tiles of 64, also counted from there (Dao 2023, arXiv:2307.08691). So
// the arithmetic of a row is the same whatever it is packed with. Scores, softmax and sums are f32.
#include "hopper.cuh"

namespace {

constexpr int HEAD_DIM = 64;
constexpr int GROUPS = 2;
constexpr int GROUP_QUERIES = 64;
constexpr int QUERIES = GROUPS * GROUP_QUERIES;
constexpr int THREADS = GROUPS * WARPGROUP;
constexpr int KEYS = 64;
constexpr int STAGES = 4;
constexpr float LOG2_E = 1.4426950408889634f;

template <typename T> struct Shared {
  T queries[QUERIES * HEAD_DIM];
  struct {
    T keys[KEYS * HEAD_DIM];
    T values[KEYS * HEAD_DIM];
  } stages[STAGES];
  uint64_t queries_filled;
  uint64_t filled[STAGES];
  uint64_t used[STAGES];
};

template <typename T>
__device__ inline void attend(const CUtensorMap &qkv, const uint32_t *cu_seqlens, const QueryTile *tiles, T *output, int hidden) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
  const QueryTile tile = tiles[blockIdx.x];
  const int start = cu_seqlens[tile.sequence], tokens = cu_seqlens[tile.sequence + 1] - start;
  const int first_query = tile.first_query, column = blockIdx.y * HEAD_DIM;
  const int group = threadIdx.x / WARPGROUP;
  const int groups = min(GROUPS, (tokens - first_query + GROUP_QUERIES - 1) / GROUP_QUERIES);
  const int key_tiles = (tokens + KEYS - 1) / KEYS;

  const auto fill = [&](int key_tile) {
    auto &stage = shared.stages[key_tile % STAGES];
    uint64_t *filled = &shared.filled[key_tile % STAGES];
    barrier_expect(filled, sizeof(stage));
    copy_box(stage.keys, qkv, filled, hidden + column, start + key_tile * KEYS);
    copy_box(stage.values, qkv, filled, 2 * hidden + column, start + key_tile * KEYS);
  };

  if (threadIdx.x == 0) {
    barrier_init(&shared.queries_filled, 1);
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(&shared.filled[stage], 1);
      barrier_init(&shared.used[stage], groups);
    }
    barrier_init_done();
    barrier_expect(&shared.queries_filled, sizeof(shared.queries));
    for (int row = 0; row < QUERIES; row += KEYS) {
      copy_box(shared.queries + row * HEAD_DIM, qkv, &shared.queries_filled, column, start + first_query + row);
    }
    for (int key_tile = 0; key_tile < min(STAGES, key_tiles); ++key_tile) {
      fill(key_tile);
    }
  }
  __syncthreads();
  if (group >= groups) {
    return;
  }

  // Of this thread's rows, lane / 4 and lane / 4 + 8 of the warp's sixteen: the running maximum, times log2(e), and the sum of
  // weights.
  float highest[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
  float sums[HEAD_DIM / 2];
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 2; ++i) {
    sums[i] = 0.0f;
  }
  const uint64_t queries = matrix_at(shared.queries + group * GROUP_QUERIES * HEAD_DIM);
  barrier_wait(&shared.queries_filled, 0);

  for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
    auto &stage = shared.stages[key_tile % STAGES];
    const int left = tokens - key_tile * KEYS;
    barrier_wait(&shared.filled[key_tile % STAGES], key_tile / STAGES & 1);
    float scores[KEYS / 2];
    const uint64_t keys = matrix_at(stage.keys);
    products_begin();
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
      Products<T>::multiply(scores, matrix_from(queries, step * 32), matrix_from(keys, step * 32), step > 0);
    }
    products_commit();
    if (left < KEYS) {
      // What the copy engine read past the sequence's end gets no weight, but must not be a NaN either.
      for (int vec = left * (HEAD_DIM / 8) + threadIdx.x % WARPGROUP; vec < KEYS * (HEAD_DIM / 8); vec += WARPGROUP) {
        reinterpret_cast<uint4 *>(stage.values)[vec] = uint4{0, 0, 0, 0};
      }
      fence_shared_writes();
      // Of each group its own.
      named_barrier(1 + group, WARPGROUP);
    }
    products_wait<0>();
    if (left < KEYS) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; ++i) {
        if (i / 4 * 8 + lane() % 4 * 2 + i % 2 >= left) {
          scores[i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = scores[half * 2];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
        now = fmaxf(now, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
      }
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
      // fmaxf leaves a NaN out; its weight below is NaN all the same, and so is what it is added to.
      now = fmaxf(highest[half], now * LOG2_E);
      const float rescale = exp2_of(highest[half] - now);
      highest[half] = now;
      totals[half] *= rescale;
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n) {
        sums[n * 4 + half * 2] *= rescale;
        sums[n * 4 + half * 2 + 1] *= rescale;
      }
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float &score = scores[n * 4 + half * 2 + e];
          score = exp2_of(fmaf(score, LOG2_E, -now));
          totals[half] += score;
        }
      }
    }
    uint32_t weights[KEYS / 16][4];
#pragma unroll
    for (int step = 0; step < KEYS / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[step][i] = pack<T>(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
      }
    }
    const uint64_t values = matrix_at(stage.values);
    products_begin();
#pragma unroll
    for (int step = 0; step < KEYS / 16; ++step) {
      Products<T>::multiply_columns(sums, weights[step], matrix_from(values, step * 16 * HEAD_DIM * sizeof(T)));
    }
    products_commit();
    products_wait<0>();
    if (key_tile + STAGES < key_tiles) {
      if (threadIdx.x % WARPGROUP == 0) {
        barrier_arrive(&shared.used[key_tile % STAGES]);
      }
      if (threadIdx.x == 0) {
        barrier_wait(&shared.used[key_tile % STAGES], key_tile / STAGES & 1);
        fill(key_tile + STAGES);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 1);
    totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 2);
    const float factor = 1.0f / totals[half];
    const int row = first_query + group * GROUP_QUERIES + threadIdx.x % WARPGROUP / 32 * 16 + lane() / 4 + half * 8;
#pragma unroll
    for (int first = 0; first < HEAD_DIM / 8; first += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = (first + i) * 4 + half * 2;
        pairs[i] = pack<T>(sums[at] * factor, sums[at + 1] * factor);
      }
      const uint4 block = transpose({pairs[0], pairs[1], pairs[2], pairs[3]});
      if (row < tokens) {
        store_block(output + (start + static_cast<size_t>(row)) * hidden + column + (first + lane() % 4) * 8, block);
      }
    }
  }
}

} // namespace

// `output` `[total_tokens, hidden]` from `qkv` `[total_tokens, 3 * hidden]`, whose map has boxes of `KEYS` rows of one head.
#define ATTENTION(T, NAME)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_##NAME(                                      \
      const __grid_constant__ CUtensorMap qkv, const uint32_t *cu_seqlens, const QueryTile *tiles, T *output, int hidden) { \
    attend<T>(qkv, cu_seqlens, tiles, output, hidden);                                                                 \
  }

ATTENTION(__half, f16)
ATTENTION(__nv_bfloat16, bf16)
