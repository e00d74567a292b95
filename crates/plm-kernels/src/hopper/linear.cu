// Products of rows with a matrix of weights, their bias, and what follows them, in one kernel for Hopper:
//
// - exact GELU (the first feed-forward projection),
// - query scale and rotary positions (the fused query-key-value projection).
//
// Operands are of 16 bits, or 8-bit integers with a scale for each row of `x` and of the weights; with those also
//
// - exact GELU, a shift and a factor per output, so that what is quantised next is positive and alike in all columns,
// - the residual stream (the other two projections),
// - nothing.
//
// Two blocks of a cluster compute 128 rows each by the same 256 outputs. One thread of each keeps the copy engine busy (its
// own rows, and one half of the weights for both blocks), and two warpgroups multiply 64 rows each. The grid is as large as
// the GPU and goes over all tiles. A warpgroup adds the bias to a finished tile, rounds it and begins to multiply the next; what
// follows the product is done piece by piece while the tensor cores work.
//
// Of each 8 columns of a product a row's four threads get two each. So that a thread has 8 neighbours of each 32 outputs, the
// copy engine lays the weights' rows in shared memory in that order.
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
// What follows a product is done in pieces, each of one row of a thread and one head.
constexpr int PIECES = 2 * OUTPUTS / HEAD_DIM;
constexpr int VECTOR = 8;    // neighbouring outputs of a thread
constexpr int BETWEEN = 32;  // from one of its vectors to the next
// A piece after so many steps of the product.
template <typename X> constexpr int STEPS_PER_PIECE = sizeof(X) == 1 ? 1 : 2;
template <typename X> constexpr int LEAST_STEPS = PIECES * STEPS_PER_PIECE<X>;

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

  // Inputs that are multiplied: enough for the pieces. Behind the last of its inputs a row reads as zeros.
  template <typename X> __device__ int multiplied() const { return max(inputs, LEAST_STEPS<X> * INPUTS<X>); }
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

// x * (1 + erf(x / sqrt(2))) / 2 to within 1e-6, of each: max(x, 0) - |x| * tail(|x|), where the base-2 logarithm of the normal
// distribution's tail is nearly a polynomial. Step by step for all, so that none waits for its own last step.
__device__ inline void gelu(float (&values)[VECTOR]) {
  constexpr float P[6] = {-1.000037670135498f,   -1.1507878303527832f,  -0.45999258756637573f,
                          -0.05182723328471184f, 0.007084488403052092f, -0.0004732979869004339f};
  float exponents[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    exponents[i] = P[5];
  }
#pragma unroll
  for (int power = 4; power >= 0; --power) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      exponents[i] = fmaf(exponents[i], fabsf(values[i]), P[power]);
    }
  }
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    exponents[i] = exp2_of(exponents[i]);
  }
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    values[i] = fmaf(-fabsf(values[i]), exponents[i], fmaxf(values[i], 0.0f));
  }
}

// Where a piece is in the result.
struct Place {
  int row;
  int head; // its first column

  // The first column of a thread's vector in either half.
  __device__ int column(int half) const { return head + half * BETWEEN + lane() % 4 * VECTOR; }
};

// What a thread holds of a piece: a vector of each half of the head.
using Values = float[2][VECTOR];

// A vector in 16 bits.
using Pairs = Vec<uint32_t, VECTOR / 2>;

template <typename T> __device__ inline Pairs load_pairs(const T *from) {
  return load_vec<uint32_t, VECTOR / 2>(reinterpret_cast<const uint32_t *>(from));
}

// Each of the following has `Loaded`, what it reads of device memory for a piece; `load`, done a step ahead, so that nothing
// waits for it; `OF_ROW`, whether that is the same for all heads of a row; and `apply`.

template <typename T> struct Gelu {
  static constexpr bool OF_ROW = true;
  struct Loaded {};

  __device__ void load(Loaded &, const Place &, const Shape &) const {}

  __device__ void apply(Values &values, const Loaded &, const Place &, const Shape &) const {
    gelu(values[0]);
    gelu(values[1]);
  }
};

// What quantises without losing half of the range: GELU is never less than -0.17.
template <typename T> struct PositiveGelu {
  static constexpr bool OF_ROW = false;
  static constexpr float SHIFT = 0.17f;
  const T *factors; // [outputs]

  struct Loaded {
    Pairs factors[2];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      loaded.factors[half] = load_pairs(factors + place.column(half));
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &, const Shape &) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      gelu(values[half]);
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 factor = unpack<T>(loaded.factors[half].values[i / 2]);
        values[half][i] = (values[half][i] + SHIFT) * factor.x;
        values[half][i + 1] = (values[half][i + 1] + SHIFT) * factor.y;
      }
    }
  }
};

// For the projection to queries, keys and values, side by side.
template <typename T> struct Rotary {
  static constexpr bool OF_ROW = true;
  static constexpr int HALF = HEAD_DIM / 2;
  const float *rotary;       // [2, table_positions, HALF]: cosines, sines
  const uint32_t *positions; // [rows]
  int table_positions;

  struct Loaded {
    Vec<float, 4> cosines[VECTOR / 4], sines[VECTOR / 4];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &shape) const {
    const float *angles = rotary + (place.row < shape.rows ? positions[place.row] : 0) * HALF + lane() % 4 * VECTOR;
#pragma unroll
    for (int i = 0; i < VECTOR / 4; ++i) {
      loaded.cosines[i] = load_vec<float, 4>(angles + i * 4);
      loaded.sines[i] = load_vec<float, 4>(angles + table_positions * HALF + i * 4);
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &place, const Shape &shape) const {
    const int hidden = shape.outputs / 3;
    if (place.head >= 2 * hidden) {
      return;
    }
    const float scale = place.head < hidden ? 1.0f / sqrtf(static_cast<float>(HEAD_DIM)) : 1.0f;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const float x = values[0][i] * scale, y = values[1][i] * scale;
      const float cosine = loaded.cosines[i / 4].values[i % 4], sine = loaded.sines[i / 4].values[i % 4];
      values[0][i] = x * cosine - y * sine;
      values[1][i] = y * cosine + x * sine;
    }
  }
};

template <typename T> struct Residual {
  static constexpr bool OF_ROW = false;
  const T *residual; // [rows, outputs]

  struct Loaded {
    Pairs stream[2];
  };

  __device__ void load(Loaded &loaded, const Place &place, const Shape &shape) const {
    if (place.row < shape.rows) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        loaded.stream[half] =
            load_pairs(residual + static_cast<size_t>(place.row) * shape.outputs + place.column(half));
      }
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const Place &, const Shape &) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 stream = unpack<T>(loaded.stream[half].values[i / 2]);
        values[half][i] += stream.x;
        values[half][i + 1] += stream.y;
      }
    }
  }
};

template <typename T> struct Nothing {
  static constexpr bool OF_ROW = true;
  struct Loaded {};

  __device__ void load(Loaded &, const Place &, const Shape &) const {}
  __device__ void apply(Values &, const Loaded &, const Place &, const Shape &) const {}
};

// What sums of 16-bit numbers get before they are rounded.
template <typename T> struct Bias {
  const T *bias; // [outputs]

  struct OfRow {};
  using OfOutputs = Pairs;

  __device__ OfRow of_row(int, const Shape &) const { return {}; }
  __device__ OfOutputs of_outputs(int output) const { return load_pairs(bias + output); }
  __device__ static float finished(float sum, OfRow, const OfOutputs &bias, int i) {
    const float2 pair = unpack<T>(bias.values[i / 2]);
    return sum + (i % 2 ? pair.y : pair.x);
  }
};

// And sums of 8-bit integers.
struct Scales {
  const float *rows;    // [rows]
  const float *outputs; // [outputs]
  const float *bias;    // [outputs]

  struct OfOutputs {
    Vec<float, 4> scales[VECTOR / 4], bias[VECTOR / 4];
  };

  __device__ float of_row(int row, const Shape &shape) const { return row < shape.rows ? rows[row] : 0.0f; }

  __device__ OfOutputs of_outputs(int output) const {
    OfOutputs of;
#pragma unroll
    for (int i = 0; i < VECTOR / 4; ++i) {
      of.scales[i] = load_vec<float, 4>(outputs + output + i * 4);
      of.bias[i] = load_vec<float, 4>(bias + output + i * 4);
    }
    return of;
  }

  __device__ static float finished(int sum, float row, const OfOutputs &of, int i) {
    return fmaf(static_cast<float>(sum) * row, of.scales[i / 4].values[i % 4], of.bias[i / 4].values[i % 4]);
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
      copy_rows_to_all(stage.weight + rank * SHARE * INPUTS<T>, weight, &shared.filled[at.stage], input,
                       (tile.output + rank * SHARE) / BETWEEN, (1 << CLUSTER) - 1);
      at.advance();
    }
  }
}

// A warpgroup that multiplies numbers of format X, for results in Y.
template <typename X, typename Y, typename Factors, typename Then> struct Consumer {
  using Sum = typename Products<X>::Sum;

  Shared<X> &shared;
  Y *y;
  const Shape &shape;
  const Factors &factors;
  const Then &then;
  int group, thread;
  Position at;
  // A finished tile, rounded: pairs of the rows `row` and `row + 8`.
  uint32_t finished[PIECES][2][VECTOR / 2];
  typename Then::Loaded loaded;
  int row = -1, output = 0;

  __device__ void run() {
    const int clusters = gridDim.x / CLUSTER;
    for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
      Sum sums[OUTPUTS / 2];
#pragma unroll
      for (int step = 0; step < LEAST_STEPS<X>; ++step) {
        multiply(sums, step > 0);
        if (row >= 0 && step % STEPS_PER_PIECE<X> == 0) {
          follow(step / STEPS_PER_PIECE<X>);
        }
        if (step > 0) {
          release();
        }
        at.advance();
      }
      for (int input = LEAST_STEPS<X> * INPUTS<X>; input < shape.inputs; input += INPUTS<X>) {
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

  // Rounds a tile's sums.
  __device__ void finish(const Sum (&sums)[OUTPUTS / 2]) {
    const auto upper = factors.of_row(row, shape), lower = factors.of_row(row + 8, shape);
#pragma unroll
    for (int n = 0; n < OUTPUTS / BETWEEN; ++n) {
      const int column = output + n * BETWEEN + lane() % 4 * VECTOR;
      if (column < shape.outputs) {
        const auto of_outputs = factors.of_outputs(column);
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
          const Sum *four = sums + n * 16 + i * 2;
          finished[n / 2][n % 2][i / 2] = pack<Y>(factors.finished(four[0], upper, of_outputs, i),
                                                  factors.finished(four[1], upper, of_outputs, i + 1));
          finished[PIECES / 2 + n / 2][n % 2][i / 2] = pack<Y>(factors.finished(four[2], lower, of_outputs, i),
                                                               factors.finished(four[3], lower, of_outputs, i + 1));
        }
      }
    }
    load(0);
  }

  // One thread tells one block.
  __device__ void tell_used(int stage) {
    if (thread < CLUSTER) {
      barrier_arrive_at(&shared.used[stage], thread);
    }
  }

  __device__ Place place_of(int piece) const {
    return {row + piece / (PIECES / 2) * 8, output + piece % (PIECES / 2) * HEAD_DIM};
  }

  __device__ void load(int piece) {
    const Place place = place_of(piece);
    if (place.head < shape.outputs) {
      then.load(loaded, place, shape);
    }
  }

  // What follows the product, for a piece, and its way to device memory.
  __device__ void follow(int piece) {
    const Place place = place_of(piece);
    const typename Then::Loaded now = loaded;
    if (piece + 1 < PIECES && (!Then::OF_ROW || (piece + 1) % (PIECES / 2) == 0)) {
      load(piece + 1);
    }
    if (place.head >= shape.outputs) {
      return;
    }
    Values values;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 pair = unpack<Y>(finished[piece][half][i / 2]);
        values[half][i] = pair.x;
        values[half][i + 1] = pair.y;
      }
    }
    then.apply(values, now, place, shape);
    if (place.row < shape.rows) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&v)[VECTOR] = values[half];
        store_block(y + static_cast<size_t>(place.row) * shape.outputs + place.column(half),
                    {pack<Y>(v[0], v[1]), pack<Y>(v[2], v[3]), pack<Y>(v[4], v[5]), pack<Y>(v[6], v[7])});
      }
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
// bytes, those of `weight` in the order in which the tensor cores take them. `outputs` is a multiple of `HEAD_DIM`.
#define LINEAR(NAME, X, Y, FACTORS, THEN)                                                                              \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)                             \
      linear_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,                 \
                    FACTORS factors, THEN<Y> then, Y *y, int rows, int inputs, int outputs) {                          \
    linear<X>(x, weight, y, {rows, inputs, outputs}, factors, then);                                                   \
  }

LINEAR(gelu_f16, __half, __half, Bias<__half>, Gelu)
LINEAR(gelu_bf16, __nv_bfloat16, __nv_bfloat16, Bias<__nv_bfloat16>, Gelu)
LINEAR(rotary_f16, __half, __half, Bias<__half>, Rotary)
LINEAR(rotary_bf16, __nv_bfloat16, __nv_bfloat16, Bias<__nv_bfloat16>, Rotary)

LINEAR(positive_gelu_int8, int8_t, __nv_bfloat16, Scales, PositiveGelu)
LINEAR(rotary_int8, int8_t, __nv_bfloat16, Scales, Rotary)
LINEAR(residual_int8, int8_t, __nv_bfloat16, Scales, Residual)
LINEAR(residual_uint8, uint8_t, __nv_bfloat16, Scales, Residual)
LINEAR(nothing_int8, int8_t, __nv_bfloat16, Scales, Nothing)
