// Contacts from the attention maps of all layers, a layer at a time.
//
// A map is never whole in memory: a block makes a tile of 64 x 64 of it, with the scores of one
// head after the other. First the rows' softmax is found, over all keys; then the probabilities are
// made again, tile by tile, and added up. Residues and keys count from the sequence's own start,
// and all sums are f32 in an order that these fix.
#include "cuda/common.cuh"

namespace {

constexpr int TILE = contract::CONTACT_TILE;
constexpr int THREADS = contract::CONTACT_THREADS;
// A thread has `SIDE` x `SIDE` pairs of a tile.
constexpr int SIDE = 4;
constexpr int SIDES = TILE / SIDE;
static_assert(SIDES * SIDES == THREADS, "the threads of a block have a tile");
static_assert(SIDES == 16, "half a warp has the same rows");
// Terms that are in shared memory at once.
constexpr int STEP = 32;
// Rows begin at whole vectors.
constexpr int ROW = TILE + 4;

struct Tiles {
  alignas(16) float rows[STEP][ROW];
  alignas(16) float columns[STEP][ROW];
};

// The sequence that a block is of.
struct Sequence {
  int start;    // its first token
  int tokens;   // BOS and EOS included
  int residues; // from token 1 on

  __device__ Sequence(const uint32_t *cu_seqlens, int sequence)
      : start(cu_seqlens[sequence]), tokens(cu_seqlens[sequence + 1] - start), residues(tokens - 2) {}
};

// Queries and keys of all tokens, with positions and query scale.
template <typename T> struct Projection {
  const T *x; // [total_tokens, stride]: queries, then keys `hidden` further
  int stride;
  int hidden;
  int head_dim;

  __device__ const T *query(int token, int head) const {
    return x + static_cast<size_t>(token) * stride + head * head_dim;
  }
  __device__ const T *key(int token, int head) const { return query(token, head) + hidden; }
};

__device__ inline int own_rows() { return threadIdx.x / SIDES * SIDE; }
__device__ inline int own_columns() { return threadIdx.x % SIDES * SIDE; }

// Adds to `sums` the products of a tile's rows and columns, term by term.
template <typename Product>
__device__ inline void add_products(const Tiles &tiles, float (&sums)[SIDE][SIDE], const Product &product) {
#pragma unroll 8
  for (int step = 0; step < STEP; ++step) {
    const Vec<float, SIDE> rows = load_vec<float, SIDE>(&tiles.rows[step][own_rows()]);
    const Vec<float, SIDE> columns = load_vec<float, SIDE>(&tiles.columns[step][own_columns()]);
#pragma unroll
    for (int row = 0; row < SIDE; ++row) {
#pragma unroll
      for (int column = 0; column < SIDE; ++column) {
        sums[row][column] = product(step, rows.values[row], columns.values[column], sums[row][column]);
      }
    }
  }
}

// `count` rows of one head, `dims` of their numbers, as columns of `to`; zeros beyond.
template <typename T>
__device__ inline void load_rows(float (&to)[STEP][ROW], const T *from, int stride, int count, int dims) {
  for (int unit = threadIdx.x; unit < TILE * STEP; unit += THREADS) {
    const int row = unit / STEP, dim = unit % STEP;
    to[dim][row] = row < count && dim < dims ? to_f32(from[static_cast<size_t>(row) * stride + dim]) : 0.0f;
  }
}

// The scores of a tile of one head.
template <typename T>
__device__ inline void score(Tiles &tiles, const Projection<T> &in, const T *queries, int num_queries, const T *keys,
                             int num_keys, float (&scores)[SIDE][SIDE]) {
#pragma unroll
  for (int row = 0; row < SIDE; ++row) {
#pragma unroll
    for (int column = 0; column < SIDE; ++column) {
      scores[row][column] = 0.0f;
    }
  }
  for (int dim = 0; dim < in.head_dim; dim += STEP) {
    // The tiles of before are done with.
    __syncthreads();
    load_rows(tiles.rows, queries + dim, in.stride, num_queries, in.head_dim - dim);
    load_rows(tiles.columns, keys + dim, in.stride, num_keys, in.head_dim - dim);
    __syncthreads();
    add_products(tiles, scores, [](int, float query, float key, float sum) { return fmaf(query, key, sum); });
  }
}

// Over the threads that have the same rows.
__device__ inline float max_of_row(float value) {
  for (int offset = SIDES / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, offset));
  }
  return value;
}

__device__ inline float sum_of_row(float value) {
  for (int offset = SIDES / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, offset);
  }
  return value;
}

// The softmax of residues' rows over all keys: `highest`, `shares` and `row_sums`, each `[heads,
// total_tokens]`. A probability is e^(score - highest) * share; a row sum is over residues alone. A
// block is a sequence (x), a tile of its residues (y) and a head (z).
template <typename T>
__device__ inline void softmax_rows(const Projection<T> &in, const uint32_t *cu_seqlens, int total_tokens,
                                    float *highest, float *shares, float *row_sums) {
  __shared__ Tiles tiles;
  const Sequence sequence(cu_seqlens, blockIdx.x);
  const int first_row = blockIdx.y * TILE, head = blockIdx.z;
  if (first_row >= sequence.residues) {
    return;
  }
  const int first_token = sequence.start + 1 + first_row;
  float most[SIDE], totals[SIDE] = {}, of_residues[SIDE] = {};
#pragma unroll
  for (int row = 0; row < SIDE; ++row) {
    most[row] = -INFINITY;
  }
  for (int first_key = 0; first_key < sequence.tokens; first_key += TILE) {
    float scores[SIDE][SIDE];
    score(tiles, in, in.query(first_token, head), sequence.residues - first_row,
          in.key(sequence.start + first_key, head), sequence.tokens - first_key, scores);
#pragma unroll
    for (int row = 0; row < SIDE; ++row) {
      float now = most[row];
#pragma unroll
      for (int column = 0; column < SIDE; ++column) {
        if (first_key + own_columns() + column >= sequence.tokens) {
          scores[row][column] = -INFINITY;
        }
        now = fmaxf(now, scores[row][column]);
      }
      now = max_of_row(now);
      // fmaxf leaves a NaN out; its weight below is NaN all the same, and so is what it is added
      // to.
      const float rescale = expf(most[row] - now);
      most[row] = now;
      totals[row] *= rescale;
      of_residues[row] *= rescale;
#pragma unroll
      for (int column = 0; column < SIDE; ++column) {
        const int key = first_key + own_columns() + column;
        const float weight = expf(scores[row][column] - now);
        totals[row] += weight;
        of_residues[row] += key >= 1 && key <= sequence.residues ? weight : 0.0f;
      }
    }
  }
#pragma unroll
  for (int row = 0; row < SIDE; ++row) {
    const float share = 1.0f / sum_of_row(totals[row]);
    const float row_sum = sum_of_row(of_residues[row]) * share;
    const int residue = first_row + own_rows() + row;
    if (own_columns() == 0 && residue < sequence.residues) {
      const size_t at = static_cast<size_t>(head) * total_tokens + sequence.start + 1 + residue;
      highest[at] = most[row];
      shares[at] = share;
      row_sums[at] = row_sum;
    }
  }
}

// Adds the maps of all heads, weighted, to `maps`, and gives the sums by column of each tile in
// `column_sums` `[heads, columns_of_head]`. A block is a sequence (x), and a tile of its map (y,
// z).
template <typename T>
__device__ inline void add_maps(const Projection<T> &in, const uint32_t *cu_seqlens, const uint64_t *pair_offsets,
                                const uint64_t *column_offsets, int total_tokens, int heads, const float *weights,
                                const float *highest, const float *shares, float *maps, float *column_sums,
                                uint64_t columns_of_head) {
  __shared__ Tiles tiles;
  __shared__ alignas(16) float parts[SIDES][TILE];
  const Sequence sequence(cu_seqlens, blockIdx.x);
  const int first_row = blockIdx.y * TILE, first_column = blockIdx.z * TILE;
  if (first_row >= sequence.residues || first_column >= sequence.residues) {
    return;
  }
  const int first_token = sequence.start + 1;
  float sums[SIDE][SIDE] = {};
  for (int head = 0; head < heads; ++head) {
    float scores[SIDE][SIDE];
    score(tiles, in, in.query(first_token + first_row, head), sequence.residues - first_row,
          in.key(first_token + first_column, head), sequence.residues - first_column, scores);
    const float weight = weights[head];
    Vec<float, SIDE> by_column = {};
#pragma unroll
    for (int row = 0; row < SIDE; ++row) {
      const int residue = first_row + own_rows() + row;
      if (residue < sequence.residues) {
        const size_t at = static_cast<size_t>(head) * total_tokens + first_token + residue;
        const float most = highest[at], share = shares[at];
#pragma unroll
        for (int column = 0; column < SIDE; ++column) {
          if (first_column + own_columns() + column < sequence.residues) {
            const float probability = expf(scores[row][column] - most) * share;
            sums[row][column] = fmaf(weight, probability, sums[row][column]);
            by_column.values[column] += probability;
          }
        }
      }
    }
    // Those of the head before are read: `score` waits for all threads twice.
    store_vec<float, SIDE>(&parts[threadIdx.x / SIDES][own_columns()], by_column);
    __syncthreads();
    const int column = first_column + threadIdx.x;
    if (threadIdx.x < TILE && column < sequence.residues) {
      float sum = 0.0f;
#pragma unroll
      for (int part = 0; part < SIDES; ++part) {
        sum += parts[part][threadIdx.x];
      }
      const uint64_t row = column_offsets[blockIdx.x] + static_cast<uint64_t>(blockIdx.y) * sequence.residues;
      column_sums[head * columns_of_head + row + column] = sum;
    }
  }
  float *map = maps + pair_offsets[blockIdx.x];
#pragma unroll
  for (int row = 0; row < SIDE; ++row) {
    const int residue = first_row + own_rows() + row;
#pragma unroll
    for (int column = 0; column < SIDE; ++column) {
      const int other = first_column + own_columns() + column;
      if (residue < sequence.residues && other < sequence.residues) {
        map[static_cast<size_t>(residue) * sequence.residues + other] += sums[row][column];
      }
    }
  }
}

// The probabilities of contacts, from the sum of all maps and what corrections are products of. A
// block is a sequence (x), and a tile of its pairs (y, z).
template <typename To>
__device__ inline void pairs_of_contacts(const uint32_t *cu_seqlens, const uint64_t *pair_offsets, int total_tokens,
                                         int num_maps, const float *weights, float bias, const float *maps,
                                         const float *factors, To *contacts) {
  __shared__ Tiles tiles;
  __shared__ float of_step[STEP];
  const Sequence sequence(cu_seqlens, blockIdx.x);
  const int first_row = blockIdx.y * TILE, first_column = blockIdx.z * TILE;
  if (first_row >= sequence.residues || first_column >= sequence.residues) {
    return;
  }
  float corrections[SIDE][SIDE] = {};
  for (int first = 0; first < num_maps; first += STEP) {
    __syncthreads();
    if (threadIdx.x < STEP) {
      of_step[threadIdx.x] = first + threadIdx.x < num_maps ? weights[first + threadIdx.x] : 0.0f;
    }
    for (int unit = threadIdx.x; unit < STEP * TILE; unit += THREADS) {
      const int step = unit / TILE, residue = unit % TILE;
      const float *of_map = factors + static_cast<size_t>(first + step) * total_tokens + sequence.start + 1;
      const bool is_map = first + step < num_maps;
      const int row = first_row + residue, column = first_column + residue;
      tiles.rows[step][residue] = is_map && row < sequence.residues ? of_map[row] : 0.0f;
      tiles.columns[step][residue] = is_map && column < sequence.residues ? of_map[column] : 0.0f;
    }
    __syncthreads();
    // The product of the two comes first: it is the same for both orders of a pair.
    add_products(tiles, corrections, [&](int step, float row, float column, float sum) {
      return fmaf(of_step[step], row * column, sum);
    });
  }
  const float *map = maps + pair_offsets[blockIdx.x];
  To *to = contacts + pair_offsets[blockIdx.x];
#pragma unroll
  for (int row = 0; row < SIDE; ++row) {
    const size_t residue = first_row + own_rows() + row;
#pragma unroll
    for (int column = 0; column < SIDE; ++column) {
      const size_t other = first_column + own_columns() + column;
      if (residue < sequence.residues && other < sequence.residues) {
        const float both = map[residue * sequence.residues + other] + map[other * sequence.residues + residue];
        const float logit = both - corrections[row][column] + bias;
        to[residue * sequence.residues + other] = from_f32<To>(1.0f / (1.0f + expf(-logit)));
      }
    }
  }
}

// Queries and keys `[total_tokens, 2 * hidden]` in f32, with bias, query scale and positions. A
// block is a token.
template <typename T>
__device__ inline void rotate_rows(const T *qkv, const T *bias, const float *rotary, const uint32_t *positions,
                                   int table_positions, int hidden, int head_dim, float *rotated) {
  const int half = head_dim / 2;
  const size_t token = blockIdx.x;
  const float *cosines = rotary + static_cast<size_t>(positions[token]) * half;
  const float *sines = cosines + static_cast<size_t>(table_positions) * half;
  for (int unit = threadIdx.x; unit < hidden; unit += blockDim.x) {
    const int part = unit / (hidden / 2), pair = unit % (hidden / 2), i = pair % half;
    const int column = part * hidden + pair / half * head_dim + i;
    const float scale = part == 0 ? 1.0f / sqrtf(static_cast<float>(head_dim)) : 1.0f;
    const T *row = qkv + token * 3 * hidden;
    const float x = (to_f32(row[column]) + to_f32(bias[column])) * scale;
    const float y = (to_f32(row[column + half]) + to_f32(bias[column + half])) * scale;
    float *to = rotated + token * 2 * hidden + column;
    to[0] = x * cosines[i] - y * sines[i];
    to[half] = y * cosines[i] + x * sines[i];
  }
}

} // namespace

// Where the pairs of each sequence begin, and where its sums by column of each tile of rows. One
// warp makes both, `[num_sequences]`.
extern "C" __global__ void contact_offsets(const uint32_t *cu_seqlens, int num_sequences, uint64_t *pair_offsets,
                                           uint64_t *column_offsets) {
  unsigned long long pairs_before = 0, columns_before = 0;
  for (int first = 0; first < num_sequences; first += 32) {
    const int sequence = first + threadIdx.x;
    const bool is_there = sequence < num_sequences;
    const unsigned long long residues = is_there ? cu_seqlens[sequence + 1] - cu_seqlens[sequence] - 2 : 0;
    unsigned long long pairs = residues * residues, columns = (residues + TILE - 1) / TILE * residues;
    const unsigned long long own_pairs = pairs, own_columns = columns;
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other_pairs = __shfl_up_sync(0xffffffff, pairs, offset);
      const unsigned long long other_columns = __shfl_up_sync(0xffffffff, columns, offset);
      if (threadIdx.x >= offset) {
        pairs += other_pairs;
        columns += other_columns;
      }
    }
    if (is_there) {
      pair_offsets[sequence] = pairs_before + pairs - own_pairs;
      column_offsets[sequence] = columns_before + columns - own_columns;
    }
    pairs_before += __shfl_sync(0xffffffff, pairs, 31);
    columns_before += __shfl_sync(0xffffffff, columns, 31);
  }
}

// Rows of a map and its transpose: the sums of each residue by row and by column, into `factors`
// `[heads, total_tokens]`. A thread is a token (x) of a head (y).
extern "C" __global__ void contact_sums(const uint32_t *cu_seqlens, const uint64_t *column_offsets, int num_sequences,
                                        int total_tokens, const float *row_sums, const float *column_sums,
                                        uint64_t columns_of_head, float *factors) {
  const int token = blockIdx.x * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (token >= total_tokens) {
    return;
  }
  const int number = sequence_of(cu_seqlens, num_sequences, token);
  const Sequence sequence(cu_seqlens, number);
  const int residue = token - sequence.start - 1;
  if (residue < 0 || residue >= sequence.residues) {
    return;
  }
  const size_t at = static_cast<size_t>(head) * total_tokens + token;
  const float *by_tile = column_sums + head * columns_of_head + column_offsets[number] + residue;
  float sum = row_sums[at];
  for (int tile = 0; tile * TILE < sequence.residues; ++tile) {
    sum += by_tile[static_cast<size_t>(tile) * sequence.residues];
  }
  factors[at] = sum;
}

// Divides the factors of a sequence (x) and a head (y) by the root of their sum. A map of nothing
// but zeros needs no correction.
extern "C" __global__ void __launch_bounds__(THREADS)
    contact_factors(const uint32_t *cu_seqlens, int total_tokens, float *factors) {
  __shared__ float sums[THREADS];
  const Sequence sequence(cu_seqlens, blockIdx.x);
  float *own = factors + static_cast<size_t>(blockIdx.y) * total_tokens + sequence.start + 1;
  float sum = 0.0f;
  for (int residue = threadIdx.x; residue < sequence.residues; residue += THREADS) {
    sum += own[residue];
  }
  sums[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[threadIdx.x] += sums[threadIdx.x + half];
    }
  }
  __syncthreads();
  const float root = sqrtf(sums[0]);
  if (root != 0.0f) {
    for (int residue = threadIdx.x; residue < sequence.residues; residue += THREADS) {
      own[residue] /= root;
    }
  }
}

#define CONTACTS(T, NAME)                                                                                              \
  extern "C" __global__ void contact_rotate_##NAME(const T *qkv, const T *bias, const float *rotary,                   \
                                                   const uint32_t *positions, int table_positions, int hidden,         \
                                                   int head_dim, float *rotated) {                                     \
    rotate_rows<T>(qkv, bias, rotary, positions, table_positions, hidden, head_dim, rotated);                          \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
      contact_rows_##NAME(const T *x, int stride, int hidden, int head_dim, const uint32_t *cu_seqlens,                \
                          int total_tokens, float *highest, float *shares, float *row_sums) {                          \
    softmax_rows<T>({x, stride, hidden, head_dim}, cu_seqlens, total_tokens, highest, shares, row_sums);               \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
      contact_maps_##NAME(const T *x, int stride, int hidden, int head_dim, const uint32_t *cu_seqlens,                \
                          const uint64_t *pair_offsets, const uint64_t *column_offsets, int total_tokens, int heads,   \
                          const float *weights, const float *highest, const float *shares, float *maps,                \
                          float *column_sums, uint64_t columns_of_head) {                                              \
    add_maps<T>({x, stride, hidden, head_dim}, cu_seqlens, pair_offsets, column_offsets, total_tokens, heads, weights, \
                highest, shares, maps, column_sums, columns_of_head);                                                  \
  }

#define CONTACT_PAIRS(TO, NAME)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
      contact_pairs_##NAME(const uint32_t *cu_seqlens, const uint64_t *pair_offsets, int total_tokens, int num_maps,   \
                           const float *weights, float bias, const float *maps, const float *factors, TO *contacts) {  \
    pairs_of_contacts<TO>(cu_seqlens, pair_offsets, total_tokens, num_maps, weights, bias, maps, factors, contacts);   \
  }

CONTACTS(float, f32)
CONTACTS(__half, f16)
CONTACTS(__nv_bfloat16, bf16)
CONTACT_PAIRS(float, f32)
CONTACT_PAIRS(__half, f16)
