// Softmax attention within each sequence of a packed batch, straight from the fused query-key-value
// projection: bias, query scale, rotary positions, scores, softmax and the weighted sum of values,
// in one pass over memory.
//
// A block takes 128 query rows of one head of one sequence, counted from the sequence's own start,
// and goes over the sequence's keys in tiles of 64, also counted from there (Dao 2023,
// arXiv:2307.08691). So the arithmetic of a row is the same whatever it is packed with. Scores,
// softmax and sums are f32; the tensor cores multiply 16-bit numbers.
#include "cuda/common.cuh"

namespace {

constexpr int THREADS = contract::ATTENTION_THREADS;
constexpr int WARPS = THREADS / 32;
constexpr int QUERIES = 16 * WARPS;
static_assert(QUERIES == contract::ATTENTION_QUERIES, "a warp takes 16 query rows");
constexpr int KEYS = 64;
constexpr float LOG2_E = 1.4426950408889634f;

// The operands, as the host passes them.
template <typename T> struct Operands {
  const T *qkv;           // [total_tokens, 3 * hidden]
  const T *bias;          // [3 * hidden]
  const float *rotary;    // [2, positions, head_dim / 2]
  const uint32_t *cu_seqlens;
  T *output;              // [total_tokens, hidden]
  int positions;
  int hidden;
};

// Four 8x8 matrices of 16-bit numbers from shared memory, one row address per thread.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

__device__ inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

// sums[16x8] += a[16x16] * b[16x8]
template <typename T>
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                                   uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<__half>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// How many neighbouring numbers of half a head one load takes.
template <int HEAD_DIM> constexpr int PAIR_VEC = HEAD_DIM / 2 % 8 == 0 ? 8 : 4;

// Adds the bias to a stretch of the first half of a head and to its partner in the second half,
// scales both and turns them by `position`.
template <typename T, int HEAD_DIM, int N>
__device__ inline void rotate(const Vec<T, N> &in_a, const Vec<T, N> &in_b, const T *bias, const float *rotary,
                              int positions, uint32_t position, int column, float scale, float (&a)[N],
                              float (&b)[N]) {
  constexpr int HALF = HEAD_DIM / 2;
  const Vec<T, N> bias_a = load_vec<T, N>(bias + column), bias_b = load_vec<T, N>(bias + HALF + column);
  const float *cosines = rotary + static_cast<size_t>(position) * HALF + column;
  const float *sines = cosines + static_cast<size_t>(positions) * HALF;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const float4 cosine = *reinterpret_cast<const float4 *>(cosines + i);
    const float4 sine = *reinterpret_cast<const float4 *>(sines + i);
    const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w}, s[4] = {sine.x, sine.y, sine.z, sine.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float x = (to_f32(in_a.values[i + j]) + to_f32(bias_a.values[i + j])) * scale;
      const float y = (to_f32(in_b.values[i + j]) + to_f32(bias_b.values[i + j])) * scale;
      a[i + j] = x * c[j] - y * s[j];
      b[i + j] = y * c[j] + x * s[j];
    }
  }
}

// The tensor-core kernel, for 16-bit formats.
template <typename T, int HEAD_DIM> struct Attention {
  // Whole steps of 16 for the tensor cores; what is past HEAD_DIM is zero.
  static constexpr int WIDTH = (HEAD_DIM + 15) / 16 * 16;
  // Rows are a vector apart, so that the eight rows of a matrix lie in different banks.
  static constexpr int ROW = WIDTH + 8;
  static constexpr int STEPS = WIDTH / 16;
  static constexpr int N = PAIR_VEC<HEAD_DIM>;
  static constexpr int PAIRS_PER_ROW = HEAD_DIM / 2 / N;
  static constexpr int PAIR_LOADS = (KEYS * PAIRS_PER_ROW + THREADS - 1) / THREADS;
  static constexpr int VALUES_PER_ROW = HEAD_DIM / 8;
  static constexpr int VALUE_LOADS = (KEYS * VALUES_PER_ROW + THREADS - 1) / THREADS;

  // A tile of keys and values on its way from device memory to shared memory.
  struct Incoming {
    Vec<T, N> keys_a[PAIR_LOADS], keys_b[PAIR_LOADS];
    Vec<T, 8> values[VALUE_LOADS];
  };

  const Operands<T> &in;
  const T *sequence; // this head's queries of the sequence's first token
  int tokens;
  int head;
  T *shared; // [QUERIES, ROW]: all queries first, then KEYS rows of keys and KEYS rows of values

  __device__ size_t stride() const { return 3 * static_cast<size_t>(in.hidden); }
  __device__ const T *bias(int part) const { return in.bias + part * in.hidden + head * HEAD_DIM; }

  __device__ void load_tile(int first_key, Incoming &incoming) const {
#pragma unroll
    for (int load = 0; load < PAIR_LOADS; ++load) {
      const int unit = load * THREADS + threadIdx.x;
      const int row = first_key + unit / PAIRS_PER_ROW, column = unit % PAIRS_PER_ROW * N;
      if (unit < KEYS * PAIRS_PER_ROW && row < tokens) {
        const T *key = sequence + row * stride() + in.hidden;
        incoming.keys_a[load] = load_vec<T, N>(key + column);
        incoming.keys_b[load] = load_vec<T, N>(key + HEAD_DIM / 2 + column);
      }
    }
#pragma unroll
    for (int load = 0; load < VALUE_LOADS; ++load) {
      const int unit = load * THREADS + threadIdx.x;
      const int row = first_key + unit / VALUES_PER_ROW, column = unit % VALUES_PER_ROW * 8;
      if (unit < KEYS * VALUES_PER_ROW && row < tokens) {
        incoming.values[load] = load_vec<T, 8>(sequence + row * stride() + 2 * in.hidden + column);
      }
    }
  }

  // A stretch of the first half of a head and its partner in the second half, into shared row
  // `row`.
  __device__ void store_pair(int row, int column, const float (&a)[N], const float (&b)[N]) const {
    Vec<T, N> out_a, out_b;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out_a.values[i] = from_f32<T>(a[i]);
      out_b.values[i] = from_f32<T>(b[i]);
    }
    store_vec<T, N>(shared + row * ROW + column, out_a);
    store_vec<T, N>(shared + row * ROW + HEAD_DIM / 2 + column, out_b);
  }

  // Rows past the sequence's end become zeros: they get no weight, but must not hold a NaN.
  __device__ void store_tile(int first_key, const Incoming &incoming) const {
#pragma unroll
    for (int load = 0; load < PAIR_LOADS; ++load) {
      const int unit = load * THREADS + threadIdx.x;
      const int local = unit / PAIRS_PER_ROW, row = first_key + local, column = unit % PAIRS_PER_ROW * N;
      if (unit < KEYS * PAIRS_PER_ROW) {
        float a[N] = {}, b[N] = {};
        if (row < tokens) {
          rotate<T, HEAD_DIM, N>(incoming.keys_a[load], incoming.keys_b[load], bias(1), in.rotary, in.positions, row,
                                 column, 1.0f, a, b);
        }
        store_pair(local, column, a, b);
      }
    }
#pragma unroll
    for (int load = 0; load < VALUE_LOADS; ++load) {
      const int unit = load * THREADS + threadIdx.x;
      const int local = unit / VALUES_PER_ROW, row = first_key + local, column = unit % VALUES_PER_ROW * 8;
      if (unit < KEYS * VALUES_PER_ROW) {
        const Vec<T, 8> value_bias = load_vec<T, 8>(bias(2) + column);
        Vec<T, 8> out;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          out.values[i] = from_f32<T>(
              row < tokens ? to_f32(incoming.values[load].values[i]) + to_f32(value_bias.values[i]) : 0.0f);
        }
        store_vec<T, 8>(shared + (KEYS + local) * ROW + column, out);
      }
    }
  }

  __device__ void store_queries(int first_query) const {
    const float scale = 1.0f / sqrtf(static_cast<float>(HEAD_DIM));
    for (int unit = threadIdx.x; unit < QUERIES * PAIRS_PER_ROW; unit += THREADS) {
      const int local = unit / PAIRS_PER_ROW, row = first_query + local, column = unit % PAIRS_PER_ROW * N;
      float a[N] = {}, b[N] = {};
      if (row < tokens) {
        const T *query = sequence + row * stride();
        rotate<T, HEAD_DIM, N>(load_vec<T, N>(query + column), load_vec<T, N>(query + HEAD_DIM / 2 + column), bias(0),
                               in.rotary, in.positions, row, column, scale, a, b);
      }
      store_pair(local, column, a, b);
    }
  }

  __device__ void run(int first_query) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // No one writes the columns between HEAD_DIM and WIDTH again.
    if constexpr (WIDTH > HEAD_DIM) {
      for (int unit = threadIdx.x; unit < QUERIES * (WIDTH - HEAD_DIM); unit += THREADS) {
        shared[unit / (WIDTH - HEAD_DIM) * ROW + HEAD_DIM + unit % (WIDTH - HEAD_DIM)] = from_f32<T>(0.0f);
      }
    }
    Incoming incoming;
    load_tile(0, incoming);
    store_queries(first_query);
    __syncthreads();
    uint32_t queries[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      load_matrices(queries[step],
                    shared_address(shared + (warp * 16 + lane % 16) * ROW + step * 16 + lane / 16 * 8));
    }
    __syncthreads();

    // Of this thread's rows, lane / 4 and lane / 4 + 8 of the warp's sixteen: the running maximum
    // and sum of weights.
    float highest[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
    float output[WIDTH / 8][4] = {};
    const bool has_queries = first_query + warp * 16 < tokens;

    for (int first_key = 0; first_key < tokens; first_key += KEYS) {
      store_tile(first_key, incoming);
      __syncthreads();
      if (first_key + KEYS < tokens) {
        load_tile(first_key + KEYS, incoming);
      }
      if (has_queries) {
        tile(first_key, lane, queries, highest, totals, output);
      }
      __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 1);
      totals[half] += __shfl_xor_sync(0xffffffff, totals[half], 2);
      const int row = first_query + warp * 16 + lane / 4 + half * 8;
      if (row < tokens) {
        T *to = in.output + (in.cu_seqlens[0] + static_cast<size_t>(row)) * in.hidden + head * HEAD_DIM;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n) {
          *reinterpret_cast<uint32_t *>(to + n * 8 + lane % 4 * 2) =
              pack<T>(output[n][half * 2] / totals[half], output[n][half * 2 + 1] / totals[half]);
        }
      }
    }
  }

  __device__ void tile(int first_key, int lane, const uint32_t (&queries)[STEPS][4], float (&highest)[2],
                       float (&totals)[2], float (&output)[WIDTH / 8][4]) const {
    float scores[KEYS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
#pragma unroll
      for (int group = 0; group < KEYS / 16; ++group) {
        // Keys 16 * group .. + 16 by dimensions 16 * step .. + 16, as the two column blocks of two
        // products.
        uint32_t keys[4];
        load_matrices(keys, shared_address(shared + (group * 16 + lane % 8 + lane / 16 * 8) * ROW + step * 16 +
                                           lane / 8 % 2 * 8));
        multiply_add<T>(scores[group * 2], queries[step], keys[0], keys[1]);
        multiply_add<T>(scores[group * 2 + 1], queries[step], keys[2], keys[3]);
      }
    }
    if (first_key + KEYS > tokens) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (first_key + n * 8 + lane % 4 * 2 + i % 2 >= tokens) {
            scores[n][i] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float now = highest[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
        now = fmaxf(now, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
      }
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
      // fmaxf leaves a NaN out; its weight below is NaN all the same, and so is what it is added
      // to.
      const float rescale = exp2f((highest[half] - now) * LOG2_E);
      highest[half] = now;
      totals[half] *= rescale;
#pragma unroll
      for (int n = 0; n < WIDTH / 8; ++n) {
        output[n][half * 2] *= rescale;
        output[n][half * 2 + 1] *= rescale;
      }
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
        for (int i = half * 2; i < half * 2 + 2; ++i) {
          scores[n][i] = exp2f((scores[n][i] - now) * LOG2_E);
          totals[half] += scores[n][i];
        }
      }
    }
#pragma unroll
    for (int group = 0; group < KEYS / 16; ++group) {
      const uint32_t weights[4] = {
          pack<T>(scores[group * 2][0], scores[group * 2][1]), pack<T>(scores[group * 2][2], scores[group * 2][3]),
          pack<T>(scores[group * 2 + 1][0], scores[group * 2 + 1][1]),
          pack<T>(scores[group * 2 + 1][2], scores[group * 2 + 1][3])};
#pragma unroll
      for (int n = 0; n < WIDTH / 16; ++n) {
        uint32_t values[4];
        load_matrices_transposed(values, shared_address(shared + (KEYS + group * 16 + lane % 16) * ROW + n * 16 +
                                                        lane / 16 * 8));
        multiply_add<T>(output[n * 2], weights, values[0], values[1]);
        multiply_add<T>(output[n * 2 + 1], weights, values[2], values[3]);
      }
    }
  }
};

template <typename T, int HEAD_DIM>
__device__ inline void attend(const Operands<T> &all, const QueryTile *tiles) {
  using Kernel = Attention<T, HEAD_DIM>;
  static_assert(QUERIES == 2 * KEYS, "queries take the room of a tile of keys and values");
  __shared__ alignas(16) T shared[QUERIES * Kernel::ROW];
  const QueryTile tile = tiles[blockIdx.x];
  Operands<T> in = all;
  in.cu_seqlens += tile.sequence;
  const uint32_t start = in.cu_seqlens[0];
  const int head = blockIdx.y;
  Kernel kernel{in, in.qkv + start * 3 * static_cast<size_t>(in.hidden) + head * HEAD_DIM,
                static_cast<int>(in.cu_seqlens[1] - start), head, shared};
  kernel.run(tile.first_query);
}

// The f32 kernel, on the ordinary units: for models that are to be exact rather than fast. A block
// takes 32 queries; eight threads share a query.
constexpr int F32_ROWS = contract::ATTENTION_QUERIES_F32;
static_assert(F32_ROWS * 8 == THREADS, "eight threads share a query");

template <int HEAD_DIM> __device__ inline void attend_f32(const Operands<float> &in, const QueryTile *tiles) {
  constexpr int HALF = HEAD_DIM / 2, ROW = HEAD_DIM + 1, COLUMNS = HEAD_DIM / 8;
  __shared__ float queries[F32_ROWS][ROW], keys[F32_ROWS][ROW];
  __shared__ float weights[F32_ROWS][F32_ROWS + 1];
  const QueryTile tile = tiles[blockIdx.x];
  const uint32_t start = in.cu_seqlens[tile.sequence];
  const int tokens = in.cu_seqlens[tile.sequence + 1] - start, head = blockIdx.y;
  const size_t stride = 3 * static_cast<size_t>(in.hidden);
  const float *sequence = in.qkv + start * stride + head * HEAD_DIM;
  const float *bias = in.bias + head * HEAD_DIM;
  const int row = threadIdx.x / 8, part = threadIdx.x % 8;

  auto load_rotated = [&](float (&to)[F32_ROWS][ROW], int first, int third, float scale) {
    for (int unit = threadIdx.x; unit < F32_ROWS * HALF; unit += blockDim.x) {
      const int local = unit / HALF, column = unit % HALF, position = first + local;
      float a = 0.0f, b = 0.0f;
      if (position < tokens) {
        const float *from = sequence + position * stride + third * in.hidden;
        const float *own_bias = bias + third * in.hidden;
        const float x = (from[column] + own_bias[column]) * scale;
        const float y = (from[HALF + column] + own_bias[HALF + column]) * scale;
        const float cosine = in.rotary[static_cast<size_t>(position) * HALF + column];
        const float sine = in.rotary[(static_cast<size_t>(in.positions) + position) * HALF + column];
        a = x * cosine - y * sine;
        b = y * cosine + x * sine;
      }
      to[local][column] = a;
      to[local][HALF + column] = b;
    }
  };

  load_rotated(queries, tile.first_query, 0, 1.0f / sqrtf(static_cast<float>(HEAD_DIM)));
  float highest = -INFINITY, total = 0.0f, output[COLUMNS] = {};
  for (int first_key = 0; first_key < tokens; first_key += F32_ROWS) {
    load_rotated(keys, first_key, 1, 1.0f);
    __syncthreads();
    float scores[F32_ROWS / 8], now = highest;
#pragma unroll
    for (int j = 0; j < F32_ROWS / 8; ++j) {
      float score = 0.0f;
      for (int d = 0; d < HEAD_DIM; ++d) {
        score = fmaf(queries[row][d], keys[j * 8 + part][d], score);
      }
      scores[j] = first_key + j * 8 + part < tokens ? score : -INFINITY;
      now = fmaxf(now, scores[j]);
    }
    for (int offset = 4; offset > 0; offset /= 2) {
      now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, offset));
    }
    const float rescale = expf(highest - now);
    highest = now;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < F32_ROWS / 8; ++j) {
      const float weight = expf(scores[j] - now);
      weights[row][j * 8 + part] = weight;
      sum += weight;
    }
    total = total * rescale + sum;
    __syncthreads();
    // The keys are done with; the values take their place.
    for (int unit = threadIdx.x; unit < F32_ROWS * HEAD_DIM; unit += blockDim.x) {
      const int local = unit / HEAD_DIM, column = unit % HEAD_DIM, position = first_key + local;
      keys[local][column] = position < tokens ? sequence[position * stride + 2 * in.hidden + column] +
                                                    bias[2 * in.hidden + column]
                                              : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      float sum_of_values = 0.0f;
      for (int key = 0; key < F32_ROWS; ++key) {
        sum_of_values = fmaf(weights[row][key], keys[key][c * 8 + part], sum_of_values);
      }
      output[c] = fmaf(output[c], rescale, sum_of_values);
    }
    __syncthreads();
  }
  for (int offset = 4; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(0xffffffff, total, offset);
  }
  const int query = tile.first_query + row;
  if (query < tokens) {
    float *to = in.output + (start + static_cast<size_t>(query)) * in.hidden + head * HEAD_DIM;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      to[c * 8 + part] = output[c] / total;
    }
  }
}

} // namespace

// Blocks that a multiprocessor has at once, at least: of long heads there is room for one.
constexpr int blocks(int head_dim) { return head_dim > 64 ? 1 : 2; }

#define VARLEN_ATTENTION(T, NAME, HEAD_DIM)                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS, blocks(HEAD_DIM)) varlen_attention_##NAME##_##HEAD_DIM(        \
      const T *qkv, const T *bias, const float *rotary, const uint32_t *cu_seqlens, const QueryTile *tiles, T *output,      \
      int positions, int hidden) {                                                                                     \
    attend<T, HEAD_DIM>({qkv, bias, rotary, cu_seqlens, output, positions, hidden}, tiles);                            \
  }

#define VARLEN_ATTENTION_F32(HEAD_DIM)                                                                                 \
  extern "C" __global__ void __launch_bounds__(F32_ROWS * 8)                                                           \
      varlen_attention_f32_##HEAD_DIM(const float *qkv, const float *bias, const float *rotary,                        \
                                      const uint32_t *cu_seqlens, const QueryTile *tiles, float *output, int positions,     \
                                      int hidden) {                                                                    \
    attend_f32<HEAD_DIM>({qkv, bias, rotary, cu_seqlens, output, positions, hidden}, tiles);                           \
  }

#define VARLEN_ATTENTION_F16(HEAD_DIM) VARLEN_ATTENTION(__half, f16, HEAD_DIM)
#define VARLEN_ATTENTION_BF16(HEAD_DIM) VARLEN_ATTENTION(__nv_bfloat16, bf16, HEAD_DIM)

FOR_GPU_HEAD_DIMS(VARLEN_ATTENTION_F16)
FOR_GPU_HEAD_DIMS(VARLEN_ATTENTION_BF16)
FOR_GPU_HEAD_DIMS(VARLEN_ATTENTION_F32)
