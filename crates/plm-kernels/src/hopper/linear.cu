// Products of rows with a matrix of weights and what follows them, in one kernel for Hopper:
//
// - bias and exact GELU (the first feed-forward projection),
// - bias, query scale and rotary positions (the fused query-key-value projection).
//
// Operands are of 16 bits, or 8-bit integers with a scale for each row of `x` and of the weights; with those also
//
// - bias, exact GELU, a shift and a factor per output, so that what is quantised next is positive and alike in all columns,
// - bias and the residual stream (the other two projections),
// - nothing.
//
// Two blocks of a cluster compute 128 rows each by the same 256 outputs. One thread of each keeps the copy engine busy (its
// own rows, and one half of the weights for both blocks), and two warpgroups multiply 64 rows each. The grid is as large as
// the GPU and goes over all tiles. A warpgroup rounds a finished tile and begins to multiply the next; what follows the
// product is done piece by piece while the tensor cores work.
//
// Sums run over the inputs in one order, in f32 (of 8-bit integers in whole numbers), whatever the number of rows: a row's bits
// depend on that row alone.
#include "hopper.cuh"

namespace {

constexpr int ROWS = 128;    // of a block
constexpr int OUTPUTS = 256; // of a block, and of its cluster
constexpr int STEP_BYTES = 128;
constexpr int STAGES = 4;
constexpr int CLUSTER = 2;
constexpr int CONSUMERS = 2; // warpgroups
constexpr int THREADS = WARPGROUP * (1 + CONSUMERS);
// Row tiles that the GPU works on side by side, so that what is read of both operands at a time fits the L2 cache.
constexpr int ROW_TILES_TOGETHER = 8;
constexpr int HEAD_DIM = 64;
// What follows a product is done in pieces, each of one row of a thread and half the columns of a head: of each half of the
// head, one half, so that the partners of a rotation are together.
constexpr int PIECES = 2 * OUTPUTS / (HEAD_DIM / 2);
constexpr int BLOCKS = HEAD_DIM / 2 / 8; // of 8 columns, of a piece
// Between two steps of the product.
template <typename T> constexpr int PIECES_PER_STEP = sizeof(T) == 1 ? 2 : 1;

// Inputs that are multiplied per step.
template <typename T> constexpr int INPUTS = STEP_BYTES / sizeof(T);

template <typename T> struct Stage {
  T x[ROWS * INPUTS<T>];
  T weight[OUTPUTS * INPUTS<T>];
};

template <typename T> struct Shared {
  Stage<T> stages[STAGES];
  uint64_t filled[STAGES];
  uint64_t used[STAGES];
};

struct Shape {
  int rows, inputs, outputs;

  // Inputs that are multiplied: enough for a step per piece, or pieces. Behind the last of its inputs a row reads as zeros.
  template <typename X> __device__ int multiplied() const { return max(inputs, PIECES / PIECES_PER_STEP<X> * INPUTS<X>); }
};

// Where in the list of stages a thread is, and which time around.
struct Position {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The `index`-th tile, of `CLUSTER * ROWS` rows and `OUTPUTS` outputs.
struct Tile {
  int row;
  int output;

  __device__ Tile(int index, const Shape &shape) {
    const int row_tiles = (shape.rows + CLUSTER * ROWS - 1) / (CLUSTER * ROWS);
    const int output_tiles = (shape.outputs + OUTPUTS - 1) / OUTPUTS;
    const int in_group = ROW_TILES_TOGETHER * output_tiles;
    const int first = index / in_group * ROW_TILES_TOGETHER;
    const int together = min(ROW_TILES_TOGETHER, row_tiles - first);
    row = (first + index % in_group % together) * CLUSTER * ROWS;
    output = index % in_group / together * OUTPUTS;
  }

  __device__ static int count(const Shape &shape) {
    return (shape.rows + CLUSTER * ROWS - 1) / (CLUSTER * ROWS) * ((shape.outputs + OUTPUTS - 1) / OUTPUTS);
  }
};

// x * (1 + erf(x / sqrt(2))) / 2 to within 1e-6: max(x, 0) - |x| * tail(|x|), where the base-2 logarithm of the normal
// distribution's tail is nearly a polynomial.
__device__ inline float gelu(float x) {
  constexpr float P[6] = {-1.000037670135498f,   -1.1507878303527832f,  -0.45999258756637573f,
                          -0.05182723328471184f, 0.007084488403052092f, -0.0004732979869004339f};
  const float magnitude = fabsf(x);
  float exponent = P[5];
#pragma unroll
  for (int i = 4; i >= 0; --i) {
    exponent = fmaf(exponent, magnitude, P[i]);
  }
  return fmaf(-magnitude, exp2_of(exponent), fmaxf(x, 0.0f));
}

// Where a piece is in the result.
struct Place {
  int row;
  int first; // its first column
  int head;  // and that of its head

  // The first column of a block of 8.
  __device__ int column(int block) const { return first + (block < BLOCKS / 2 ? block : HEAD_DIM / 16 + block - BLOCKS / 2) * 8; }
};

// What a thread holds of a piece: of each block's columns two.
using Values = float[BLOCKS][2];

template <typename T> __device__ inline void load_pairs(uint32_t (&pairs)[BLOCKS], const T *from, const Place &place) {
#pragma unroll
  for (int n = 0; n < BLOCKS; ++n) {
    pairs[n] = *reinterpret_cast<const uint32_t *>(from + place.column(n) + lane() % 4 * 2);
  }
}

// Each of the following has `Loaded`, what it reads of device memory for a piece; `load`, done a step ahead, so that nothing
// waits for it; and `apply`.

template <typename T> struct BiasGelu {
  const T *bias;

  struct Loaded {
    uint32_t bias[BLOCKS];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &) const { load_pairs(loaded.bias, bias, place); }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &, const Shape &) const {
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const float2 added = unpack<T>(loaded.bias[n]);
      values[n][0] = gelu(values[n][0] + added.x);
      values[n][1] = gelu(values[n][1] + added.y);
    }
  }
};

// What quantises without losing half of the range: GELU is never less than -0.17.
template <typename T> struct BiasPositiveGelu {
  static constexpr float SHIFT = 0.17f;
  const T *bias;
  const T *factors; // [outputs]

  struct Loaded {
    uint32_t bias[BLOCKS], factors[BLOCKS];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &) const {
    load_pairs(loaded.bias, bias, place);
    load_pairs(loaded.factors, factors, place);
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &, const Shape &) const {
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const float2 added = unpack<T>(loaded.bias[n]), factor = unpack<T>(loaded.factors[n]);
      values[n][0] = (gelu(values[n][0] + added.x) + SHIFT) * factor.x;
      values[n][1] = (gelu(values[n][1] + added.y) + SHIFT) * factor.y;
    }
  }
};

// For the projection to queries, keys and values, side by side.
template <typename T> struct BiasRotary {
  const T *bias;
  const float *rotary;       // [2, table_positions, HEAD_DIM / 2]: cosines, sines
  const uint32_t *positions; // [rows]
  int table_positions;

  struct Loaded {
    uint32_t bias[BLOCKS];
    float2 cosines[BLOCKS / 2], sines[BLOCKS / 2];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &shape) const {
    constexpr int HALF = HEAD_DIM / 2;
    load_pairs(loaded.bias, bias, place);
    const float *angles = rotary + (place.row < shape.rows ? positions[place.row] : 0) * HALF - place.head + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < BLOCKS / 2; ++n) {
      loaded.cosines[n] = *reinterpret_cast<const float2 *>(angles + place.column(n));
      loaded.sines[n] = *reinterpret_cast<const float2 *>(angles + place.column(n) + table_positions * HALF);
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &place, const Shape &shape) const {
    const int hidden = shape.outputs / 3;
    const bool is_value = place.head >= 2 * hidden;
    const float scale = place.head < hidden ? 1.0f / sqrtf(static_cast<float>(HEAD_DIM)) : 1.0f;
#pragma unroll
    for (int n = 0; n < BLOCKS / 2; ++n) {
      float(&a)[2] = values[n], (&b)[2] = values[n + BLOCKS / 2];
      const float2 bias_a = unpack<T>(loaded.bias[n]), bias_b = unpack<T>(loaded.bias[n + BLOCKS / 2]);
      const float xs[2] = {(a[0] + bias_a.x) * scale, (a[1] + bias_a.y) * scale};
      const float ys[2] = {(b[0] + bias_b.x) * scale, (b[1] + bias_b.y) * scale};
      const float cosines[2] = {loaded.cosines[n].x, loaded.cosines[n].y};
      const float sines[2] = {loaded.sines[n].x, loaded.sines[n].y};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        a[i] = is_value ? xs[i] : xs[i] * cosines[i] - ys[i] * sines[i];
        b[i] = is_value ? ys[i] : ys[i] * cosines[i] + xs[i] * sines[i];
      }
    }
  }
};

// Adds the bias and the residual stream.
template <typename T> struct BiasResidual {
  const T *bias;
  const T *residual; // [rows, outputs]

  struct Loaded {
    uint32_t bias[BLOCKS];
    uint4 stream; // one block
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &shape) const {
    load_pairs(loaded.bias, bias, place);
    loaded.stream = {0, 0, 0, 0};
    if (place.row < shape.rows) {
      loaded.stream = *reinterpret_cast<const uint4 *>(residual + static_cast<size_t>(place.row) * shape.outputs +
                                                       place.column(lane() % 4));
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &, const Shape &) const {
    const uint4 block = transpose(loaded.stream);
    const uint32_t pairs[BLOCKS] = {block.x, block.y, block.z, block.w};
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const float2 added = unpack<T>(loaded.bias[n]), stream = unpack<T>(pairs[n]);
      values[n][0] += stream.x + added.x;
      values[n][1] += stream.y + added.y;
    }
  }
};

template <typename T> struct Nothing {
  struct Loaded {};

  __device__ void load(Loaded &, const Place &, const Shape &) const {}
  __device__ void apply(Values &, const Loaded &, const Place &, const Shape &) const {}
};

// What becomes of sums before they are rounded: of 16-bit numbers nothing.
struct Unscaled {
  struct None {};

  __device__ static None of_rows(int, const Shape &) { return {}; }
  __device__ static None of_outputs(int, const Shape &) { return {}; }
  __device__ static float2 scaled(float low, float high, None, int, None) { return {low, high}; }
};

// Sums of 8-bit integers are multiplied by the output's scale, get its offset, and are multiplied by the row's scale.
struct Scales {
  const float *rows;
  const float *outputs; // [2, outputs]: scales, offsets

  // Of the rows `row` and `row + 8`.
  __device__ float2 of_rows(int row, const Shape &shape) const {
    return {row < shape.rows ? rows[row] : 0.0f, row + 8 < shape.rows ? rows[row + 8] : 0.0f};
  }

  // Of two outputs: scales, offsets.
  __device__ float4 of_outputs(int output, const Shape &shape) const {
    if (output >= shape.outputs) {
      return {0.0f, 0.0f, 0.0f, 0.0f};
    }
    const float2 scales = *reinterpret_cast<const float2 *>(outputs + output);
    const float2 offsets = *reinterpret_cast<const float2 *>(outputs + shape.outputs + output);
    return {scales.x, scales.y, offsets.x, offsets.y};
  }

  __device__ static float2 scaled(int low, int high, float2 of_rows, int half, float4 of_outputs) {
    const float of_row = half ? of_rows.y : of_rows.x;
    return {fmaf(static_cast<float>(low), of_outputs.x, of_outputs.z) * of_row,
            fmaf(static_cast<float>(high), of_outputs.y, of_outputs.w) * of_row};
  }
};

template <typename T>
__device__ inline void produce(Shared<T> &shared, const CUtensorMap &x, const CUtensorMap &weight, const Shape &shape) {
  constexpr int SHARE = OUTPUTS / CLUSTER;
  const int rank = cluster_rank(), clusters = gridDim.x / CLUSTER;
  Position at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    for (int input = 0; input < shape.multiplied<T>(); input += INPUTS<T>) {
      Stage<T> &stage = shared.stages[at.stage];
      barrier_wait(&shared.used[at.stage], at.parity ^ 1);
      barrier_expect(&shared.filled[at.stage], sizeof(Stage<T>));
      copy_box(stage.x, x, &shared.filled[at.stage], input, tile.row + rank * ROWS);
      copy_box_to_all(stage.weight + rank * SHARE * INPUTS<T>, weight, &shared.filled[at.stage], input,
                      tile.output + rank * SHARE, (1 << CLUSTER) - 1);
      at.advance();
    }
  }
}

// A warpgroup that multiplies numbers of format X, for results in Y.
template <typename X, typename Y, typename Factors, typename Then> struct Consumer {
  using Sum = typename Products<X>::Sum;
  static constexpr int PER_STEP = PIECES_PER_STEP<X>, STEPS = PIECES / PER_STEP;

  Shared<X> &shared;
  Y *y;
  const Shape &shape;
  const Factors &factors;
  const Then &then;
  int group, thread;
  Position at;
  // A finished tile, rounded: of the rows `row` and `row + 8`, in each 8 columns two.
  uint32_t finished[PIECES][BLOCKS];
  typename Then::Loaded loaded[PER_STEP];
  int row = -1, output = 0;

  __device__ void run() {
    const int clusters = gridDim.x / CLUSTER;
    for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
      Sum sums[OUTPUTS / 2];
#pragma unroll
      for (int step = 0; step < STEPS; ++step) {
        multiply(sums, step > 0);
        if (row >= 0) {
#pragma unroll
          for (int piece = step * PER_STEP; piece < (step + 1) * PER_STEP; ++piece) {
            follow(piece);
          }
        }
        if (step > 0) {
          release();
        }
        at.advance();
      }
      for (int input = STEPS * INPUTS<X>; input < shape.multiplied<X>(); input += INPUTS<X>) {
        multiply(sums, true);
        release();
        at.advance();
      }
      products_wait<0>();
      tell_used((at.stage + STAGES - 1) % STAGES);
      const Tile tile(index, shape);
      row = tile.row + cluster_rank() * ROWS + group * 64 + thread / 32 * 16 + lane() / 4;
      output = tile.output;
      finish(sums);
    }
    if (row >= 0) {
#pragma unroll
      for (int piece = 0; piece < PIECES; ++piece) {
        follow(piece);
      }
    }
  }

  __device__ void multiply(Sum (&sums)[OUTPUTS / 2], bool is_onto) {
    barrier_wait(&shared.filled[at.stage], at.parity);
    const uint64_t x = matrix_at(shared.stages[at.stage].x + group * 64 * INPUTS<X>);
    const uint64_t weight = matrix_at(shared.stages[at.stage].weight);
    products_begin();
#pragma unroll
    for (int bytes = 0; bytes < STEP_BYTES; bytes += 32) {
      Products<X>::multiply(sums, matrix_from(x, bytes), matrix_from(weight, bytes), bytes > 0 || is_onto);
    }
    products_commit();
  }

  // Lets the stage before the one that is being multiplied be filled again.
  __device__ void release() {
    products_wait<1>();
    tell_used((at.stage + STAGES - 1) % STAGES);
  }

  // Scales and rounds a tile's sums.
  __device__ void finish(const Sum (&sums)[OUTPUTS / 2]) {
    const auto of_rows = factors.of_rows(row, shape);
#pragma unroll
    for (int n = 0; n < OUTPUTS / 8; ++n) {
      constexpr int HALF = HEAD_DIM / 16;
      const int piece = n / (HEAD_DIM / 8) * 2 + n % HALF / (BLOCKS / 2);
      const int block = n % (HEAD_DIM / 8) / HALF * (BLOCKS / 2) + n % (BLOCKS / 2);
      const auto of_outputs = factors.of_outputs(output + n * 8 + lane() % 4 * 2, shape);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair = factors.scaled(sums[n * 4 + half * 2], sums[n * 4 + half * 2 + 1], of_rows, half, of_outputs);
        finished[half * PIECES / 2 + piece][block] = pack<Y>(pair.x, pair.y);
      }
    }
#pragma unroll
    for (int piece = 0; piece < PER_STEP; ++piece) {
      load(piece);
    }
  }

  // One thread tells one block.
  __device__ void tell_used(int stage) {
    if (thread < CLUSTER) {
      barrier_arrive_at(&shared.used[stage], thread);
    }
  }

  __device__ Place place_of(int piece) const {
    const int in_row = piece % (PIECES / 2), head = output + in_row / 2 * HEAD_DIM;
    return {row + piece / (PIECES / 2) * 8, head + in_row % 2 * (BLOCKS / 2) * 8, head};
  }

  __device__ void load(int piece) {
    const Place place = place_of(piece);
    if (place.head < shape.outputs) {
      then.load(loaded[piece % PER_STEP], place, shape);
    }
  }

  // What follows the product, for a piece, and its way to device memory. The four threads of a row exchange their pairs, so
  // that each stores one block.
  __device__ void follow(int piece) {
    const Place place = place_of(piece);
    const typename Then::Loaded now = loaded[piece % PER_STEP];
    if (piece + PER_STEP < PIECES) {
      load(piece + PER_STEP);
    }
    if (place.head >= shape.outputs) {
      return;
    }
    Values values;
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const float2 pair = unpack<Y>(finished[piece][n]);
      values[n][0] = pair.x;
      values[n][1] = pair.y;
    }
    then.apply(values, now, place, shape);
    const uint4 block = transpose({pack<Y>(values[0][0], values[0][1]), pack<Y>(values[1][0], values[1][1]),
                                   pack<Y>(values[2][0], values[2][1]), pack<Y>(values[3][0], values[3][1])});
    if (place.row < shape.rows) {
      store_block(y + static_cast<size_t>(place.row) * shape.outputs + place.column(lane() % 4), block);
    }
  }
};

template <typename X, typename Y, typename Factors, typename Then>
__device__ inline void linear(const CUtensorMap &x, const CUtensorMap &weight, Y *y, const Shape &shape, const Factors &factors,
                              const Then &then) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared<X> &shared = *reinterpret_cast<Shared<X> *>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(&shared.filled[stage], 1);
      barrier_init(&shared.used[stage], CLUSTER * CONSUMERS);
    }
    barrier_init_done();
  }
  cluster_sync();
  if (threadIdx.x < WARPGROUP) {
    registers_give<24>();
    if (threadIdx.x == 0) {
      produce<X>(shared, x, weight, shape);
    }
  } else {
    registers_take<240>();
    Consumer<X, Y, Factors, Then>{
        shared, y, shape, factors, then, static_cast<int>(threadIdx.x) / WARPGROUP - 1, static_cast<int>(threadIdx.x) % WARPGROUP}
        .run();
  }
  // No block leaves while the other may still write to its memory.
  __syncwarp();
  cluster_sync();
}

} // namespace

// `y` `[rows, outputs]` from `x` `[rows, inputs]` and `weight` `[outputs, inputs]`. The boxes of both maps are 128 rows of 128
// bytes. `outputs` is a multiple of `HEAD_DIM`.
#define LINEAR(NAME, X, Y, FACTORS, THEN)                                                                              \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)                             \
      linear_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,                 \
                    FACTORS factors, THEN<Y> then, Y *y, int rows, int inputs, int outputs) {                          \
    linear<X>(x, weight, y, {rows, inputs, outputs}, factors, then);                                                   \
  }

LINEAR(bias_gelu_f16, __half, __half, Unscaled, BiasGelu)
LINEAR(bias_gelu_bf16, __nv_bfloat16, __nv_bfloat16, Unscaled, BiasGelu)
LINEAR(bias_rotary_f16, __half, __half, Unscaled, BiasRotary)
LINEAR(bias_rotary_bf16, __nv_bfloat16, __nv_bfloat16, Unscaled, BiasRotary)

LINEAR(bias_positive_gelu_int8, int8_t, __nv_bfloat16, Scales, BiasPositiveGelu)
LINEAR(bias_rotary_int8, int8_t, __nv_bfloat16, Scales, BiasRotary)
LINEAR(bias_residual_int8, int8_t, __nv_bfloat16, Scales, BiasResidual)
LINEAR(int8, int8_t, __nv_bfloat16, Scales, Nothing)
