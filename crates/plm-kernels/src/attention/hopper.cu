// Softmax attention within each sequence of a packed batch, for Hopper and heads of 64: from
// queries, keys and values that have their bias and positions (`products/tiles`) to the weighted
// sums of values.
//
// A pair of warpgroups takes 128 query rows of one head of one sequence at a time, counted from the
// sequence's own start, 64 each, and goes over the sequence's keys in tiles of 64, also counted
// from there (Dao 2023, arXiv:2307.08691). So the arithmetic of a row is the same whatever it is
// packed with. Scores, softmax and sums are f32.
//
// The grid is as large as the GPU, and two pairs of a block hide each other's softmax. A thread for
// each keeps the copy engine busy, over all that the pair has to do, so that what comes next is
// there when it begins. A tile's values are summed while the softmax of the next is computed (Shah
// et al. 2024, arXiv:2407.08608).
#include "cuda/hopper.cuh"

namespace {

constexpr int HEAD_DIM = contract::HOPPER_HEAD_DIM;
constexpr int GROUPS = 2;
constexpr int GROUP_QUERIES = 64;
constexpr int QUERIES = GROUPS * GROUP_QUERIES;
static_assert(QUERIES == contract::ATTENTION_QUERIES, "a pair takes a tile of queries");
constexpr int PAIRS = contract::ATTENTION_PAIRS;
constexpr int CONSUMER_WARPS = GROUPS * WARPGROUP / 32; // of a pair
constexpr int THREADS = contract::ATTENTION_HOPPER_THREADS;
static_assert(THREADS == (1 + PAIRS * GROUPS) * WARPGROUP, "the first warpgroup keeps the copy engine busy");
constexpr int KEYS = contract::ATTENTION_KEYS;
// Keys of one instruction that sums values.
constexpr int KEYS_PER_STEP = 16;
constexpr int STEPS = KEYS / KEYS_PER_STEP;
constexpr int STAGES = 4;
constexpr int SHARED_BYTES = contract::ATTENTION_SHARED_BYTES;
constexpr float LOG2_E = 1.4426950408889634f;
// Weights are relative to the highest score so far, or one that is not lower than that by more than
// this: what was summed is multiplied anew only where a weight would be over 2^8, which the
// shortest format still holds with all its precision.
constexpr float LARGEST_LOG2_WEIGHT = 8.0f;
constexpr int PRODUCER_REGISTERS = 24;
constexpr int CONSUMER_REGISTERS = 112;
static_assert(WARPGROUP * (PRODUCER_REGISTERS + PAIRS * GROUPS * CONSUMER_REGISTERS) <= THREADS * registers_at_first(THREADS));

// 128 query rows of a head, and where they and their keys are.
struct Item {
  int start;       // of the sequence
  int tokens;      // of the sequence
  int first_query; // from the sequence's start
  int column;      // of the head

  __device__ int key_tiles() const { return (tokens + KEYS - 1) / KEYS; }
  __device__ int groups() const { return min(GROUPS, (tokens - first_query + GROUP_QUERIES - 1) / GROUP_QUERIES); }
};

// Of a pair.
template <typename T> struct alignas(1024) Shared {
  T queries[2][QUERIES * HEAD_DIM];
  struct {
    T keys[KEYS * HEAD_DIM];
    T values[KEYS * HEAD_DIM];
  } stages[STAGES];
  Item items[2];
  // Of `queries` and `items`.
  uint64_t item_filled[2];
  uint64_t item_used[2];
  uint64_t filled[STAGES];
  uint64_t used[STAGES];
};

// What the blocks share out: tiles of queries, for each of the heads.
struct Work {
  const uint32_t *cu_seqlens;
  const QueryTile *tiles;
  int num_tiles, items;

  // A pair takes every so manyth item.
  __device__ static int first(int pair) { return blockIdx.x * PAIRS + pair; }
  __device__ static int stride() { return gridDim.x * PAIRS; }

  __device__ Item item(int index) const {
    const QueryTile tile = tiles[index % num_tiles];
    const int start = cu_seqlens[tile.sequence];
    return {start, static_cast<int>(cu_seqlens[tile.sequence + 1]) - start, static_cast<int>(tile.first_query),
            index / num_tiles * HEAD_DIM};
  }
};

// By one thread.
template <typename T>
__device__ inline void produce(Shared<T> &shared, int pair, const CUtensorMap &qkv, const Work &work, int hidden) {
  Position<2> to;
  Position<STAGES> at;
  Item next = work.item(min(work.first(pair), work.items - 1));
  for (int index = work.first(pair); index < work.items; index += work.stride()) {
    const Item item = next;
    // Read here, so that nothing waits for it.
    next = work.item(min(index + work.stride(), work.items - 1));
    uint64_t *item_filled = &shared.item_filled[to.index];
    barrier_wait(&shared.item_used[to.index], to.parity ^ 1);
    shared.items[to.index] = item;
    barrier_expect(item_filled, sizeof(shared.queries[0]));
    for (int row = 0; row < QUERIES; row += KEYS) {
      copy_box(shared.queries[to.index] + row * HEAD_DIM, qkv, item_filled, item.column, item.start + item.first_query + row);
    }
    to.advance();
#pragma unroll 1
    for (int key_tile = 0; key_tile < item.key_tiles(); ++key_tile) {
      auto &stage = shared.stages[at.index];
      uint64_t *filled = &shared.filled[at.index];
      barrier_wait(&shared.used[at.index], at.parity ^ 1);
      barrier_expect(filled, sizeof(stage));
      copy_box(stage.keys, qkv, filled, hidden + item.column, item.start + key_tile * KEYS);
      copy_box(stage.values, qkv, filled, 2 * hidden + item.column, item.start + key_tile * KEYS);
      at.advance();
    }
  }
}

// A warpgroup of a pair.
template <typename T> struct Consumer {
  Shared<T> &shared;
  T *output;
  int hidden;
  int pair, group;
  int thread = threadIdx.x % WARPGROUP;
  Position<2> from;
  Position<STAGES> at;

  __device__ void run(const Work &work) {
    // Which warpgroup has the item of one.
    int turn = 0;
    for (int index = work.first(pair); index < work.items; index += work.stride()) {
      barrier_wait(&shared.item_filled[from.index], from.parity);
      const Item &there = shared.items[from.index];
      const Item item = {same_for_warp(there.start), same_for_warp(there.tokens), same_for_warp(there.first_query),
                         same_for_warp(there.column)};
      const bool is_for_both = item.groups() == GROUPS;
      const int half = is_for_both ? group : group ^ turn;
      turn ^= !is_for_both;
      if (half < item.groups()) {
        attend(item, half);
      } else {
        pass(item);
      }
      from.advance();
    }
  }

  // By the warpgroup that has no rows of an item.
  __device__ void pass(const Item &item) {
    tell(&shared.item_used[from.index]);
#pragma unroll 1
    for (int key_tile = 0; key_tile < item.key_tiles(); ++key_tile) {
      barrier_wait(&shared.filled[at.index], at.parity);
      tell(&shared.used[at.index]);
      at.advance();
    }
  }

  // By each warp: one that has nothing to multiply is kept with the others by nothing else.
  __device__ void tell(uint64_t *used) {
    __syncwarp();
    if (lane() == 0) {
      barrier_arrive(used);
    }
  }

  __device__ void attend(const Item &item, int half) {
    // Of this thread's rows, lane / 4 and lane / 4 + 8 of the warp's sixteen: the highest score
    // that weights are relative to, times log2(e), and the sum of weights.
    float highest[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
    float scores[KEYS / 2], sums[HEAD_DIM / 2];
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 2; ++i) {
      sums[i] = 0.0f;
    }
    const uint64_t queries = matrix_at(shared.queries[from.index] + half * GROUP_QUERIES * HEAD_DIM);
    const int key_tiles = item.key_tiles();
    uint32_t weights[STEPS][4];
    float rescale[2];
    barrier_wait(&shared.filled[at.index], at.parity);
    multiply(scores, queries, at.index);
    products_wait<0>();
    weigh(scores, item.tokens, highest, totals, rescale);
    pack_weights(scores, weights);
    wait_for_next(key_tiles > 1);
    for (int key_tile = 1; key_tile < key_tiles; ++key_tile) {
      const int before = at.index;
      at.advance();
      multiply(scores, queries, at.index);
      sum_values(sums, weights, before);
      products_wait<1>();
      weigh(scores, item.tokens - key_tile * KEYS, highest, totals, rescale);
      // Here, or the compiler would wait for the sums before it computes the weights.
      wait_for_next(key_tile + 1 < key_tiles);
      products_wait<0>();
      tell(&shared.used[before]);
      // Behind the first keys seldom one of the warp's rows has changed what its weights are
      // relative to.
      if (__any_sync(0xffffffff, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) {
          sums[i] *= rescale[i / 2 % 2];
        }
      }
      pack_weights(scores, weights);
    }
    tell(&shared.item_used[from.index]);
    sum_values(sums, weights, at.index);
    products_wait<0>();
    tell(&shared.used[at.index]);
    at.advance();
    store(item, half, sums, totals);
  }

  // Waits for the stage behind the one that is at hand, if there `is_one`.
  __device__ void wait_for_next(bool is_one) {
    if (is_one) {
      Position<STAGES> next = at;
      next.advance();
      barrier_wait(&shared.filled[next.index], next.parity);
    }
  }

  // Begins the products of queries with the keys of stage `stage`.
  __device__ void multiply(float (&scores)[KEYS / 2], uint64_t queries, int stage) {
    const uint64_t keys = matrix_at(shared.stages[stage].keys);
    products_begin();
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
      Products<T>::multiply(scores, matrix_from(queries, step * 32), matrix_from(keys, step * 32), step > 0);
    }
    products_commit();
  }

  // Begins to add the values of stage `stage`, by their weights.
  __device__ void sum_values(float (&sums)[HEAD_DIM / 2], const uint32_t (&weights)[STEPS][4], int stage) {
    const uint64_t values = matrix_at(shared.stages[stage].values);
    products_begin();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      Products<T>::multiply_columns(sums, weights[step], matrix_from(values, step * KEYS_PER_STEP * HEAD_DIM * sizeof(T)));
    }
    products_commit();
  }

  __device__ static void pack_weights(const float (&scores)[KEYS / 2], uint32_t (&weights)[STEPS][4]) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[step][i] = pack<T>(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
      }
    }
  }

  // What the copy engine read past the sequence's end gets no weight, but must not be a NaN either.
  __device__ void clear(T *values, int left) {
    for (int vec = left * (HEAD_DIM / 8) + thread; vec < KEYS * (HEAD_DIM / 8); vec += WARPGROUP) {
      reinterpret_cast<uint4 *>(values)[vec] = uint4{0, 0, 0, 0};
    }
    fence_shared_writes();
    // Of each group its own.
    named_barrier(1 + pair * GROUPS + group, WARPGROUP);
  }

  // Makes weights of the scores of the next `left` keys, not yet divided by their total, and says
  // by what those before must be multiplied.
  __device__ void weigh(float (&scores)[KEYS / 2], int left, float (&highest)[2], float (&totals)[2], float (&rescale)[2]) {
    if (left < KEYS) {
      clear(shared.stages[at.index].values, left);
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
      // fmaxf leaves a NaN out; its weight below is NaN all the same, and so is what it is added
      // to.
      now *= LOG2_E;
      // What weights are relative to changes only where they would be large.
      const bool changes = now > highest[half] + LARGEST_LOG2_WEIGHT;
      now = changes ? now : highest[half];
      rescale[half] = changes ? exp2_of(highest[half] - now) : 1.0f;
      highest[half] = now;
      totals[half] *= rescale[half];
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
  }

  __device__ void store(const Item &item, int group_of_item, const float (&sums)[HEAD_DIM / 2], float (&totals)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 1);
      totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 2);
      const float factor = 1.0f / totals[half];
      const int row = item.first_query + group_of_item * GROUP_QUERIES + thread / 32 * 16 + lane() / 4 + half * 8;
#pragma unroll
      for (int first = 0; first < HEAD_DIM / 8; first += 4) {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = (first + i) * 4 + half * 2;
          pairs[i] = pack<T>(sums[at] * factor, sums[at + 1] * factor);
        }
        const uint4 block = transpose({pairs[0], pairs[1], pairs[2], pairs[3]});
        if (row < item.tokens) {
          store_block(output + (item.start + static_cast<size_t>(row)) * hidden + item.column + (first + lane() % 4) * 8, block);
        }
      }
    }
  }
};

template <typename T>
__device__ inline void attention(const CUtensorMap &qkv, const Work &work, T *output, int hidden) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared<T> *shared = reinterpret_cast<Shared<T> *>(memory);
  static_assert(PAIRS * sizeof(Shared<T>) <= SHARED_BYTES, "the host asks for too little");
  if (threadIdx.x < PAIRS) {
    Shared<T> &of_pair = shared[threadIdx.x];
    for (int item = 0; item < 2; ++item) {
      barrier_init(&of_pair.item_filled[item], 1);
      barrier_init(&of_pair.item_used[item], CONSUMER_WARPS);
    }
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(&of_pair.filled[stage], 1);
      barrier_init(&of_pair.used[stage], CONSUMER_WARPS);
    }
    barrier_init_done();
  }
  __syncthreads();
  const int group = same_for_warp(threadIdx.x / WARPGROUP) - 1;
  if (group < 0) {
    registers_give<PRODUCER_REGISTERS>();
    const int pair = threadIdx.x / 32;
    if (pair < PAIRS && lane() == 0) {
      produce(shared[pair], pair, qkv, work, hidden);
    }
  } else {
    registers_take<CONSUMER_REGISTERS>();
    const int pair = group / GROUPS;
    Consumer<T>{shared[pair], output, hidden, pair, group % GROUPS}.run(work);
  }
}

} // namespace

// `output` `[total_tokens, hidden]` from `qkv` `[total_tokens, 3 * hidden]`, whose map has boxes of
// `KEYS` rows of one head.
#define ATTENTION(T, NAME)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                             \
      attention_##NAME(const __grid_constant__ CUtensorMap qkv, const uint32_t *cu_seqlens, const QueryTile *tiles,    \
                       T *output, int num_tiles, int hidden) {                                                         \
    attention<T>(qkv, {cu_seqlens, tiles, num_tiles, num_tiles * (hidden / HEAD_DIM)}, output, hidden);                \
  }

ATTENTION(__half, f16)
ATTENTION(__nv_bfloat16, bf16)
