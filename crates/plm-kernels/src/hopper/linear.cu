// Products of rows with a matrix of weights and what follows them, in one kernel for Hopper:
//
// - bias and exact GELU (the first feed-forward projection),
// - bias, query scale and rotary positions (the fused query-key-value projection).
//
// Two blocks of a cluster compute 128 rows each by the same 256 outputs. One thread of each keeps the copy engine busy (its
// own rows, and one half of the weights for both blocks), and two warpgroups multiply 64 rows each. The grid is as large as
// the GPU and goes over all tiles. A warpgroup rounds a finished tile and begins to multiply the next; what follows the
// product is done piece by piece while the tensor cores work.
//
// Sums run over the inputs in one order, in f32, whatever the number of rows: a row's bits depend on that row alone.
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

template <typename T>
__device__ inline void produce(Shared<T> &shared, const CUtensorMap &x, const CUtensorMap &weight, const Shape &shape) {
  constexpr int SHARE = OUTPUTS / CLUSTER;
  const int rank = cluster_rank(), clusters = gridDim.x / CLUSTER;
  Position at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    for (int input = 0; input < shape.inputs; input += INPUTS<T>) {
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

// A warpgroup that multiplies.
template <typename T, typename Then> struct Consumer {
  Shared<T> &shared;
  T *y;
  const Shape &shape;
  const Then &then;
  int group, thread;
  Position at;
  // A finished tile, rounded: of the rows `row` and `row + 8`, in each 8 columns two.
  uint32_t finished[PIECES][BLOCKS];
  typename Then::Loaded loaded;
  int row = -1, output = 0;

  __device__ void run() {
    const int clusters = gridDim.x / CLUSTER;
    for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
      float sums[OUTPUTS / 2];
#pragma unroll
      for (int piece = 0; piece < PIECES; ++piece) {
        multiply(sums, piece > 0);
        if (row >= 0) {
          follow(piece);
        }
        if (piece > 0) {
          release();
        }
        at.advance();
      }
      for (int input = PIECES * INPUTS<T>; input < shape.inputs; input += INPUTS<T>) {
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

  __device__ void multiply(float (&sums)[OUTPUTS / 2], bool is_onto) {
    barrier_wait(&shared.filled[at.stage], at.parity);
    const uint64_t x = matrix_at(shared.stages[at.stage].x + group * 64 * INPUTS<T>);
    const uint64_t weight = matrix_at(shared.stages[at.stage].weight);
    products_begin();
#pragma unroll
    for (int bytes = 0; bytes < STEP_BYTES; bytes += 32) {
      Products<T>::multiply(sums, matrix_from(x, bytes), matrix_from(weight, bytes), bytes > 0 || is_onto);
    }
    products_commit();
  }

  // Lets the stage before the one that is being multiplied be filled again.
  __device__ void release() {
    products_wait<1>();
    tell_used((at.stage + STAGES - 1) % STAGES);
  }

  // Rounds a tile's sums.
  __device__ void finish(const float (&sums)[OUTPUTS / 2]) {
#pragma unroll
    for (int n = 0; n < OUTPUTS / 8; ++n) {
      constexpr int HALF = HEAD_DIM / 16;
      const int piece = n / (HEAD_DIM / 8) * 2 + n % HALF / (BLOCKS / 2);
      const int block = n % (HEAD_DIM / 8) / HALF * (BLOCKS / 2) + n % (BLOCKS / 2);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        finished[half * PIECES / 2 + piece][block] = pack<T>(sums[n * 4 + half * 2], sums[n * 4 + half * 2 + 1]);
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
    const int in_row = piece % (PIECES / 2), head = output + in_row / 2 * HEAD_DIM;
    return {row + piece / (PIECES / 2) * 8, head + in_row % 2 * (BLOCKS / 2) * 8, head};
  }

  __device__ void load(int piece) {
    const Place place = place_of(piece);
    if (place.head < shape.outputs) {
      then.load(loaded, place, shape);
    }
  }

  // What follows the product, for a piece, and its way to device memory. The four threads of a row exchange their pairs, so
  // that each stores one block.
  __device__ void follow(int piece) {
    const Place place = place_of(piece);
    const typename Then::Loaded now = loaded;
    if (piece + 1 < PIECES) {
      load(piece + 1);
    }
    if (place.head >= shape.outputs) {
      return;
    }
    Values values;
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const float2 pair = unpack<T>(finished[piece][n]);
      values[n][0] = pair.x;
      values[n][1] = pair.y;
    }
    then.apply(values, now, place, shape);
    const uint4 block = transpose({pack<T>(values[0][0], values[0][1]), pack<T>(values[1][0], values[1][1]),
                                   pack<T>(values[2][0], values[2][1]), pack<T>(values[3][0], values[3][1])});
    if (place.row < shape.rows) {
      store_block(y + static_cast<size_t>(place.row) * shape.outputs + place.column(lane() % 4), block);
    }
  }
};

template <typename T, typename Then>
__device__ inline void linear(const CUtensorMap &x, const CUtensorMap &weight, T *y, const Shape &shape, const Then &then) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
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
      produce<T>(shared, x, weight, shape);
    }
  } else {
    registers_take<240>();
    const int thread = threadIdx.x;
    Consumer<T, Then>{shared, y, shape, then, thread / WARPGROUP - 1, thread % WARPGROUP}.run();
  }
  // No block leaves while the other may still write to its memory.
  __syncwarp();
  cluster_sync();
}

} // namespace

// `y` `[rows, outputs]` from `x` `[rows, inputs]` and `weight` `[outputs, inputs]`. The boxes of both maps are 128 rows of 128
// bytes. `outputs` is a multiple of `HEAD_DIM`, and `inputs` enough for a step per piece.
#define LINEAR(THEN, AND, T, NAME)                                                                                     \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)                             \
      linear_bias_##AND##_##NAME(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,    \
                                 THEN<T> then, T *y, int rows, int inputs, int outputs) {                              \
    linear<T>(x, weight, y, {rows, inputs, outputs}, then);                                                            \
  }

LINEAR(BiasGelu, gelu, __half, f16)
LINEAR(BiasGelu, gelu, __nv_bfloat16, bf16)
LINEAR(BiasRotary, rotary, __half, f16)
LINEAR(BiasRotary, rotary, __nv_bfloat16, bf16)
