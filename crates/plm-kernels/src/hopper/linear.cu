// Products of rows with a matrix of weights, their bias, and what comes before and after them, in one kernel for Hopper:
//
// - exact GELU (the first feed-forward projection),
// - query scale and rotary positions (the fused query-key-value projection),
// - the residual stream (the other two projections),
// - nothing.
//
// Operands are of 16 bits, and then layer norms are part of the products: those onto the residual stream give the moments of its
// rows, and the others take rows over their deviation. Or they are 8-bit integers with a scale for each row of `x` and of the
// weights; then GELU also gets a shift and a factor per output, so that what is quantised next is positive and alike in all columns.
//
// Two blocks of a cluster compute 128 rows each by the same 256 outputs. One thread of each keeps the copy engine busy (its
// own rows, and one half of the weights for both blocks), one warp fetches the bias and what else goes with a tile's rows and
// outputs, and two warpgroups multiply 64 rows each. The grid is as large as the GPU and goes over all tiles. A warpgroup adds
// the bias, and in 16 bits the residual stream, to a finished tile, rounds it and begins to multiply the next; what follows the
// product is done piece by piece while the tensor cores work, and the next tile's stream is loaded into the pieces' place.
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
// Of shared memory, all that a block can have but 1 KiB.
constexpr int SHARED_BYTES = 226 * 1024;
constexpr int PRODUCER_REGISTERS = 24;
constexpr int CONSUMER_REGISTERS = 240;
static_assert(WARPGROUP * (PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS) <= THREADS * registers_at_first(THREADS));
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

struct Shape {
  int rows, inputs, outputs;

  // Inputs that are multiplied: enough for the pieces. Behind the last of its inputs a row reads as zeros.
  template <typename X> __device__ int multiplied() const { return max(inputs, LEAST_STEPS<X> * INPUTS<X>); }
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

  // Of this block.
  __device__ int first_row() const { return row + cluster_rank() * ROWS; }
};

// `to` gets what is in `from` from `first` on, up to its end, by a warp.
template <typename T, int COUNT> __device__ inline void fetch(T (&to)[COUNT], const T *from, int first, int end) {
#pragma unroll 4
  for (int i = lane(); i < COUNT; i += 32) {
    if (first + i < end) {
      to[i] = from[first + i];
    }
  }
}

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

// Where a piece is in the result, and in its tile.
struct Place {
  int row;
  int head; // its first column
  int row_of_tile;
  int head_of_tile;

  // Of a head, the first column of a thread's vector in either half.
  __device__ static int column(int half) { return half * BETWEEN + lane() % 4 * VECTOR; }
};

// What a thread holds of a piece: a vector of each half of the head.
using Values = float[2][VECTOR];

// A vector in 16 bits.
using Pairs = Vec<uint32_t, VECTOR / 2>;

template <typename T> __device__ inline Pairs load_pairs(const T *from) {
  return load_vec<uint32_t, VECTOR / 2>(reinterpret_cast<const uint32_t *>(from));
}

// Each of the following has `OfTile`, what is fetched for a tile (nothing unless said otherwise); `Loaded`, what it reads of
// device memory for a piece; `load`, done a step ahead, so that nothing waits for it; `OF_ROW`, whether that is the same for all
// heads of a row; `IS_ONTO`, whether sums are added to `residual` before they are rounded; and what is done with a piece before
// it is stored: `apply`, or, where it is stored as it is, `take`, with `Taken` for what that has to remember.

struct NothingFetched {
  struct OfTile {};
  __device__ void fetch_for(OfTile &, const Tile &, const Shape &) const {}
};

struct NothingLoaded {
  static constexpr bool OF_ROW = true;
  struct Loaded {};
  template <typename OfTile> __device__ void load(Loaded &, const OfTile &, const Place &, const Shape &) const {}
};

struct Applied {
  static constexpr bool IS_ONTO = false, IS_APPLIED = true;
  struct Taken {};
};

struct AsItIs : NothingFetched, NothingLoaded {
  static constexpr bool IS_ONTO = false, IS_APPLIED = false;
  struct Taken {};
  __device__ void take(Taken &, const Pairs (&)[2], const Place &, const Shape &) const {}
};

template <typename T> struct Gelu : Applied, NothingFetched, NothingLoaded {
  __device__ void apply(Values &values, const Loaded &, const OfTile &, const Place &, const Shape &) const {
    gelu(values[0]);
    gelu(values[1]);
  }
};

// What quantises without losing half of the range: GELU is never less than -0.17.
template <typename T> struct PositiveGelu : Applied, NothingLoaded {
  static constexpr float SHIFT = 0.17f;
  const T *factors; // [outputs]

  struct OfTile {
    alignas(16) T factors[OUTPUTS];
  };

  __device__ void fetch_for(OfTile &of_tile, const Tile &tile, const Shape &shape) const {
    fetch(of_tile.factors, factors, tile.output, shape.outputs);
  }

  __device__ void apply(Values &values, const Loaded &, const OfTile &of_tile, const Place &place, const Shape &) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pairs factors = load_pairs(of_tile.factors + place.head_of_tile + place.column(half));
      gelu(values[half]);
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 factor = unpack<T>(factors.values[i / 2]);
        values[half][i] = (values[half][i] + SHIFT) * factor.x;
        values[half][i + 1] = (values[half][i + 1] + SHIFT) * factor.y;
      }
    }
  }
};

// For the projection to queries, keys and values, side by side.
template <typename T> struct Rotary : Applied {
  static constexpr bool OF_ROW = true;
  static constexpr int HALF = HEAD_DIM / 2;
  const float *rotary;       // [2, table_positions, HALF]: cosines, sines
  const uint32_t *positions; // [rows]
  int table_positions;

  struct OfTile {
    uint32_t positions[ROWS];
  };
  struct Loaded {
    Vec<float, 4> cosines[VECTOR / 4], sines[VECTOR / 4];
  };

  __device__ void fetch_for(OfTile &of_tile, const Tile &tile, const Shape &shape) const {
    fetch(of_tile.positions, positions, tile.first_row(), shape.rows);
  }

  __device__ void load(Loaded &loaded, const OfTile &of_tile, const Place &place, const Shape &shape) const {
    const uint32_t position = place.row < shape.rows ? of_tile.positions[place.row_of_tile] : 0;
    const float *angles = rotary + position * HALF + lane() % 4 * VECTOR;
#pragma unroll
    for (int i = 0; i < VECTOR / 4; ++i) {
      loaded.cosines[i] = load_vec<float, 4>(angles + i * 4);
      loaded.sines[i] = load_vec<float, 4>(angles + table_positions * HALF + i * 4);
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const OfTile &, const Place &place, const Shape &shape) const {
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

template <typename T> struct Residual : Applied, NothingFetched {
  static constexpr bool OF_ROW = false;
  const T *residual; // [rows, outputs]

  struct Loaded {
    Pairs stream[2];
  };

  __device__ void load(Loaded &loaded, const OfTile &, const Place &place, const Shape &shape) const {
    if (place.row < shape.rows) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        loaded.stream[half] =
            load_pairs(residual + static_cast<size_t>(place.row) * shape.outputs + place.head + place.column(half));
      }
    }
  }

  __device__ void apply(Values &values, const Loaded &loaded, const OfTile &, const Place &, const Shape &) const {
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

// The same for sums of 16-bit numbers, which are rounded once, and what the layer norm behind it needs to know.
template <typename T> struct ResidualMoments : AsItIs {
  static constexpr bool IS_ONTO = true;
  const T *residual; // [rows, outputs]
  float2 *moments; // [tiles of outputs, rows]: the sum of a row's numbers, and of their squares

  // Of a row, so far.
  using Taken = float2;

  __device__ void take(Taken &sums, const Pairs (&pairs)[2], const Place &place, const Shape &shape) const {
    if (place.head_of_tile == 0) {
      sums = {0.0f, 0.0f};
    }
    if (place.head < shape.outputs) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < VECTOR / 2; ++i) {
          const float2 pair = unpack<T>(pairs[half].values[i]);
          sums.x += pair.x + pair.y;
          sums.y = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sums.y));
        }
      }
    }
    if (place.head_of_tile == OUTPUTS - HEAD_DIM) {
#pragma unroll
      for (int other = 1; other < 4; other *= 2) {
        sums.x += __shfl_xor_sync(0xffffffff, sums.x, other);
        sums.y += __shfl_xor_sync(0xffffffff, sums.y, other);
      }
      if (lane() % 4 == 0 && place.row < shape.rows) {
        moments[static_cast<size_t>(place.head / OUTPUTS) * shape.rows + place.row] = sums;
      }
    }
  }
};

template <typename T> struct Nothing : AsItIs {};

// What sums of 16-bit numbers get before they are rounded: the bias.
struct Bias {
  const float *bias; // [outputs]

  struct OfTile {
    alignas(16) float bias[OUTPUTS];
  };
  struct OfRow {};
  struct OfOutputs {
    Vec<float, 4> bias[VECTOR / 4];
  };

  __device__ void fetch_for(OfTile &of_tile, const Tile &tile, const Shape &shape) const {
    fetch(of_tile.bias, bias, tile.output, shape.outputs);
  }

  __device__ static OfRow of_row(const OfTile &, int) { return {}; }

  __device__ static OfOutputs of_outputs(const OfTile &of_tile, int output) {
    OfOutputs of;
#pragma unroll
    for (int i = 0; i < VECTOR / 4; ++i) {
      of.bias[i] = load_vec<float, 4>(of_tile.bias + output + i * 4);
    }
    return of;
  }

  __device__ static float finished(float sum, OfRow, const OfOutputs &of, int i) { return sum + of.bias[i / 4].values[i % 4]; }
};

// The same for rows over their deviation, as a layer norm gives them. Where the weights' rows have a mean of zero, that of a row
// of `x` makes no difference (but by the weights' rounding).
struct Normalised {
  Bias bias;
  const float2 *moments; // [parts, rows]: as of `ResidualMoments`
  int parts;
  float inverse_width; // of a row
  float eps;

  struct OfTile {
    Bias::OfTile bias;
    float rows[ROWS];
  };
  using OfOutputs = Bias::OfOutputs;

  __device__ void fetch_for(OfTile &of_tile, const Tile &tile, const Shape &shape) const {
    bias.fetch_for(of_tile.bias, tile, shape);
    for (int i = lane(); i < ROWS && tile.first_row() + i < shape.rows; i += 32) {
      float2 sums = {0.0f, 0.0f};
      const uint32_t end = parts * shape.rows;
#pragma unroll 4
      for (uint32_t of_row = tile.first_row() + i; of_row < end; of_row += shape.rows) {
        const float2 more = moments[of_row];
        sums.x += more.x;
        sums.y += more.y;
      }
      // Wrong by some tenths where the mean is a thousand times the deviation: a row that 16 bits do not hold any better.
      const float mean = sums.x * inverse_width;
      const float variance = fmaf(sums.y, inverse_width, -mean * mean);
      of_tile.rows[i] = rsqrtf((variance < 0.0f ? 0.0f : variance) + eps);
    }
  }

  __device__ static float of_row(const OfTile &of_tile, int row) { return of_tile.rows[row]; }
  __device__ static OfOutputs of_outputs(const OfTile &of_tile, int output) { return Bias::of_outputs(of_tile.bias, output); }
  __device__ static float finished(float sum, float row, const OfOutputs &of, int i) {
    return fmaf(sum, row, of.bias[i / 4].values[i % 4]);
  }
};

// And sums of 8-bit integers.
struct Scales {
  const float *rows;    // [rows]
  const float *outputs; // [outputs]
  const float *bias;    // [outputs]

  struct OfTile {
    float rows[ROWS];
    alignas(16) float scales[OUTPUTS], bias[OUTPUTS];
  };
  struct OfOutputs {
    Vec<float, 4> scales[VECTOR / 4], bias[VECTOR / 4];
  };

  __device__ void fetch_for(OfTile &of_tile, const Tile &tile, const Shape &shape) const {
    fetch(of_tile.rows, rows, tile.first_row(), shape.rows);
    fetch(of_tile.scales, outputs, tile.output, shape.outputs);
    fetch(of_tile.bias, bias, tile.output, shape.outputs);
  }

  __device__ static float of_row(const OfTile &of_tile, int row) { return of_tile.rows[row]; }

  __device__ static OfOutputs of_outputs(const OfTile &of_tile, int output) {
    OfOutputs of;
#pragma unroll
    for (int i = 0; i < VECTOR / 4; ++i) {
      of.scales[i] = load_vec<float, 4>(of_tile.scales + output + i * 4);
      of.bias[i] = load_vec<float, 4>(of_tile.bias + output + i * 4);
    }
    return of;
  }

  __device__ static float finished(int sum, float row, const OfOutputs &of, int i) {
    return fmaf(static_cast<float>(sum) * row, of.scales[i / 4].values[i % 4], of.bias[i / 4].values[i % 4]);
  }
};

// What is fetched for a tile.
template <typename Factors, typename Then> struct OfTile {
  typename Factors::OfTile factors;
  typename Then::OfTile then;
};

template <typename X, typename Factors, typename Then> struct Shared {
  Stage<X> stages[STAGES];
  // Of the tile that is finished, and of the next.
  OfTile<Factors, Then> of_tiles[2];
  uint64_t filled[STAGES];
  uint64_t used[STAGES];
  uint64_t of_tile_filled[2];
  uint64_t of_tile_used[2];
};

// By one thread: all that is multiplied.
template <typename T, typename Factors, typename Then>
__device__ inline void produce(Shared<T, Factors, Then> &shared, const CUtensorMap &x, const CUtensorMap &weight,
                               const Shape &shape) {
  constexpr int SHARE = OUTPUTS / CLUSTER;
  const int rank = cluster_rank(), clusters = gridDim.x / CLUSTER;
  const uint64_t policy = to_be_kept();
  Position<STAGES> at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    for (int input = 0; input < shape.multiplied<T>(); input += INPUTS<T>) {
      Stage<T> &stage = shared.stages[at.index];
      barrier_wait(&shared.used[at.index], at.parity ^ 1);
      barrier_expect(&shared.filled[at.index], sizeof(Stage<T>));
      copy_box(stage.x, x, &shared.filled[at.index], input, tile.first_row());
      copy_rows_to_all(stage.weight + rank * SHARE * INPUTS<T>, weight, &shared.filled[at.index], input,
                       (tile.output + rank * SHARE) / BETWEEN, (1 << CLUSTER) - 1, policy);
      at.advance();
    }
  }
}

// By one warp: what is fetched for tiles. Read where it is needed, each thread would wait for it eight times per tile.
template <typename T, typename Factors, typename Then>
__device__ inline void fetch_for_tiles(Shared<T, Factors, Then> &shared, const Shape &shape, const Factors &factors,
                                       const Then &then) {
  const int clusters = gridDim.x / CLUSTER;
  Position<2> at;
  for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
    const Tile tile(index, shape);
    barrier_wait(&shared.of_tile_used[at.index], at.parity ^ 1);
    factors.fetch_for(shared.of_tiles[at.index].factors, tile, shape);
    then.fetch_for(shared.of_tiles[at.index].then, tile, shape);
    barrier_arrive(&shared.of_tile_filled[at.index]);
    at.advance();
  }
}

// A warpgroup that multiplies numbers of format X, for results in Y.
template <typename X, typename Y, typename Factors, typename Then> struct Consumer {
  using Sum = typename Products<X>::Sum;

  Shared<X, Factors, Then> &shared;
  Y *y;
  const Shape &shape;
  const Then &then;
  int group, thread;
  // Its first row, of a block's.
  int row_of_tile;
  Position<STAGES> at;
  // Of the next tile to be finished.
  Position<2> next;
  // A finished tile, rounded: of the rows `row` and `row + 8`. Where a piece has been stored, what the next tile is added to.
  Pairs pieces[PIECES][2];
  typename Then::Loaded loaded;
  typename Then::Taken taken;
  int row = -1, output = 0;

  __device__ Consumer(Shared<X, Factors, Then> &shared, Y *y, const Shape &shape, const Then &then, int group)
      : shared(shared), y(y), shape(shape), then(then), group(group), thread(threadIdx.x % WARPGROUP),
        row_of_tile(group * 64 + thread / 32 * 16 + lane() / 4) {}

  __device__ void run() {
    const int clusters = gridDim.x / CLUSTER;
    for (int index = blockIdx.x / CLUSTER; index < Tile::count(shape); index += clusters) {
      const Tile tile(index, shape);
      Sum sums[OUTPUTS / 2];
#pragma unroll
      for (int step = 0; step < LEAST_STEPS<X>; ++step) {
        multiply(sums, step > 0);
        if (step % STEPS_PER_PIECE<X> == 0) {
          const int piece = step / STEPS_PER_PIECE<X>;
          if (row >= 0) {
            follow(piece);
          }
          if (Then::IS_ONTO) {
            load_residual(piece, tile);
          }
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
      tell_used((at.index + STAGES - 1) % STAGES);
      finish(sums, tile);
    }
    if (row >= 0) {
#pragma unroll
      for (int piece = 0; piece < PIECES; ++piece) {
        follow(piece);
      }
    }
  }

  __device__ void multiply(Sum (&sums)[OUTPUTS / 2], bool is_onto) {
    barrier_wait(&shared.filled[at.index], at.parity);
    const uint64_t x = matrix_at(shared.stages[at.index].x + group * 64 * INPUTS<X>);
    const uint64_t weight = matrix_at(shared.stages[at.index].weight);
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
    tell_used((at.index + STAGES - 1) % STAGES);
  }

  // One thread tells one block.
  __device__ void tell_used(int stage) {
    if (thread < CLUSTER) {
      barrier_arrive_at(&shared.used[stage], thread);
    }
  }

  // What was fetched for the last tile that was finished.
  __device__ OfTile<Factors, Then> &of_tile() { return shared.of_tiles[next.index ^ 1]; }

  // Rounds a tile's sums.
  __device__ void finish(const Sum (&sums)[OUTPUTS / 2], const Tile &tile) {
    if (row >= 0) {
      // No lane needs any more what was fetched for the tile before.
      __syncwarp();
      if (lane() == 0) {
        barrier_arrive(&shared.of_tile_used[next.index ^ 1]);
      }
    }
    barrier_wait(&shared.of_tile_filled[next.index], next.parity);
    next.advance();
    row = tile.first_row() + row_of_tile;
    output = tile.output;
    const typename Factors::OfTile &factors = of_tile().factors;
    const auto upper = Factors::of_row(factors, row_of_tile), lower = Factors::of_row(factors, row_of_tile + 8);
#pragma unroll
    for (int n = 0; n < OUTPUTS / BETWEEN; ++n) {
      const auto of_outputs = Factors::of_outputs(factors, n * BETWEEN + lane() % 4 * VECTOR);
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const Sum *four = sums + n * 16 + i * 2;
        round(pieces[n / 2][n % 2].values[i / 2], Factors::finished(four[0], upper, of_outputs, i),
              Factors::finished(four[1], upper, of_outputs, i + 1));
        round(pieces[PIECES / 2 + n / 2][n % 2].values[i / 2], Factors::finished(four[2], lower, of_outputs, i),
              Factors::finished(four[3], lower, of_outputs, i + 1));
      }
    }
    load(0);
  }

  // A finished pair, onto what is in its place if that is the residual stream.
  __device__ static void round(uint32_t &pair, float first, float second) {
    if (Then::IS_ONTO) {
      const float2 residual = unpack<Y>(pair);
      pair = pack<Y>(first + residual.x, second + residual.y);
    } else {
      pair = pack<Y>(first, second);
    }
  }

  __device__ static Place place_of(int piece, int row, int row_of_tile, int output) {
    const int rows = piece / (PIECES / 2) * 8, head = piece % (PIECES / 2) * HEAD_DIM;
    return {row + rows, output + head, row_of_tile + rows, head};
  }

  __device__ Place place_of(int piece) const { return place_of(piece, row, row_of_tile, output); }

  // Its first vector, of two.
  __device__ size_t offset_of(const Place &place) const {
    return static_cast<size_t>(place.row) * shape.outputs + place.head + place.column(0);
  }

  __device__ void load_residual(int piece, const Tile &tile) {
    if constexpr (Then::IS_ONTO) {
      const Place place = place_of(piece, tile.first_row() + row_of_tile, row_of_tile, tile.output);
      if (place.row < shape.rows && place.head < shape.outputs) {
        const Y *from = then.residual + offset_of(place);
        pieces[piece][0] = load_pairs(from);
        pieces[piece][1] = load_pairs(from + BETWEEN);
      }
    }
  }

  __device__ void load(int piece) {
    const Place place = place_of(piece);
    if (place.head < shape.outputs) {
      then.load(loaded, of_tile().then, place, shape);
    }
  }

  // What follows the product, for a piece, and its way to device memory.
  __device__ void follow(int piece) {
    const Place place = place_of(piece);
    const typename Then::Loaded now = loaded;
    if (piece + 1 < PIECES && (!Then::OF_ROW || (piece + 1) % (PIECES / 2) == 0)) {
      load(piece + 1);
    }
    Pairs(&pairs)[2] = pieces[piece];
    if constexpr (Then::IS_APPLIED) {
      if (place.head < shape.outputs) {
        apply(pairs, now, place);
      }
    } else {
      then.take(taken, pairs, place, shape);
    }
    if (place.row < shape.rows && place.head < shape.outputs) {
      Y *to = y + offset_of(place);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t(&four)[VECTOR / 2] = pairs[half].values;
        store_block(to + half * BETWEEN, {four[0], four[1], four[2], four[3]});
      }
    }
  }

  __device__ void apply(Pairs (&pairs)[2], const typename Then::Loaded &now, const Place &place) {
    Values values;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        const float2 pair = unpack<Y>(pairs[half].values[i / 2]);
        values[half][i] = pair.x;
        values[half][i + 1] = pair.y;
      }
    }
    then.apply(values, now, of_tile().then, place, shape);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < VECTOR; i += 2) {
        pairs[half].values[i / 2] = pack<Y>(values[half][i], values[half][i + 1]);
      }
    }
  }
};

template <typename X, typename Y, typename Factors, typename Then>
__device__ inline void linear(const CUtensorMap &x, const CUtensorMap &weight, Y *y, const Shape &shape, const Factors &factors,
                              const Then &then) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto &shared = *reinterpret_cast<Shared<X, Factors, Then> *>(memory);
  static_assert(sizeof(shared) <= SHARED_BYTES, "the host asks for too little");
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(&shared.filled[stage], 1);
      barrier_init(&shared.used[stage], CLUSTER * CONSUMERS);
    }
    for (int tile = 0; tile < 2; ++tile) {
      barrier_init(&shared.of_tile_filled[tile], 32);
      barrier_init(&shared.of_tile_used[tile], CONSUMERS * WARPGROUP / 32);
    }
    barrier_init_done();
  }
  cluster_sync();
  if (threadIdx.x < WARPGROUP) {
    registers_give<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) {
      produce(shared, x, weight, shape);
    } else if (threadIdx.x / 32 == 1) {
      fetch_for_tiles(shared, shape, factors, then);
    }
  } else {
    registers_take<CONSUMER_REGISTERS>();
    Consumer<X, Y, Factors, Then>(shared, y, shape, then, threadIdx.x / WARPGROUP - 1).run();
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

LINEAR(gelu_f16, __half, __half, Normalised, Gelu)
LINEAR(gelu_bf16, __nv_bfloat16, __nv_bfloat16, Normalised, Gelu)
LINEAR(rotary_f16, __half, __half, Normalised, Rotary)
LINEAR(rotary_bf16, __nv_bfloat16, __nv_bfloat16, Normalised, Rotary)
LINEAR(nothing_f16, __half, __half, Normalised, Nothing)
LINEAR(nothing_bf16, __nv_bfloat16, __nv_bfloat16, Normalised, Nothing)
LINEAR(residual_moments_f16, __half, __half, Bias, ResidualMoments)
LINEAR(residual_moments_bf16, __nv_bfloat16, __nv_bfloat16, Bias, ResidualMoments)

LINEAR(positive_gelu_int8, int8_t, __nv_bfloat16, Scales, PositiveGelu)
LINEAR(rotary_int8, int8_t, __nv_bfloat16, Scales, Rotary)
LINEAR(residual_int8, int8_t, __nv_bfloat16, Scales, Residual)
LINEAR(residual_uint8, uint8_t, __nv_bfloat16, Scales, Residual)
LINEAR(nothing_int8, int8_t, __nv_bfloat16, Scales, Nothing)
