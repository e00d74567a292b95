// What follows the products of `linear.cuh`.
#pragma once

#include "tiles.cuh"

namespace {

// x * (1 + erf(x / sqrt(2))) / 2 to within 1e-6, of each: max(x, 0) - |x| * tail(|x|), where the
// base-2 logarithm of the normal distribution's tail is nearly a polynomial. Step by step for all,
// so that none waits for its own last step.
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

// Each of the following has `OfTile`, what is fetched for a tile (nothing unless said otherwise);
// `Loaded`, what it reads of device memory for a piece; `load`, done a step ahead, so that nothing
// waits for it; `OF_ROW`, whether that is the same for all heads of a row; `IS_ONTO`, whether sums
// are added to `residual` before they are rounded; `LEAVES_HALF`, whether only the first half of a
// head is stored; and what is done with a piece before it is stored: `apply`, or, where it is
// stored as it is, `take`, with `Taken` for what that has to remember.

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
  static constexpr bool IS_ONTO = false, IS_APPLIED = true, LEAVES_HALF = false;
  struct Taken {};
};

struct AsItIs : NothingFetched, NothingLoaded {
  static constexpr bool IS_ONTO = false, IS_APPLIED = false, LEAVES_HALF = false;
  struct Taken {};
  __device__ void take(Taken &, const Pairs (&)[2], const Place &, const Shape &) const {}
};

template <typename T> struct Gelu : Applied, NothingFetched, NothingLoaded {
  __device__ void apply(Values &values, const Loaded &, const OfTile &, const Place &, const Shape &) const {
    gelu(values[0]);
    gelu(values[1]);
  }
};
SAME_LAYOUT_Gelu(Gelu<__half>);

// SiLU of each gate, times its value. Of a head's outputs, the first half are gates, and the second
// their values.
template <typename T> struct Swiglu : Applied, NothingFetched, NothingLoaded {
  static constexpr bool LEAVES_HALF = true;
  static constexpr float LOG2_E = 1.4426950408889634f;

  __device__ void apply(Values &values, const Loaded &, const OfTile &, const Place &, const Shape &) const {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const float gate = values[0][i];
      values[0][i] = __fdividef(gate, 1.0f + exp2_of(-LOG2_E * gate)) * values[1][i];
    }
  }
};
SAME_LAYOUT_Swiglu(Swiglu<__half>);

// What quantises without losing half of the range: GELU is never less than -0.17.
template <typename T> struct PositiveGelu : Applied, NothingLoaded {
  static constexpr float SHIFT = contract::GELU_SHIFT;
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
SAME_LAYOUT_PositiveGelu(PositiveGelu<__half>);

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
      // Which product is rounded is said here, so that all kernels give the same bits.
      values[0][i] = fmaf(x, cosine, -(y * sine));
      values[1][i] = fmaf(y, cosine, x * sine);
    }
  }
};
SAME_LAYOUT_Rotary(Rotary<__half>);

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
SAME_LAYOUT_Residual(Residual<__half>);

// The same for sums of 16-bit numbers, which are rounded once, and what the layer norm behind it
// needs to know.
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
SAME_LAYOUT_ResidualMoments(ResidualMoments<__half>);

template <typename T> struct Nothing : AsItIs {};
SAME_LAYOUT_Nothing(Nothing<__half>);

// `then`, to a rounded piece.
template <typename T, typename Then>
__device__ inline void apply_to(Pairs (&pairs)[2], const Then &then, const typename Then::Loaded &loaded,
                                const typename Then::OfTile &of_tile, const Place &place, const Shape &shape) {
  Values values;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < VECTOR; i += 2) {
      const float2 pair = unpack<T>(pairs[half].values[i / 2]);
      values[half][i] = pair.x;
      values[half][i + 1] = pair.y;
    }
  }
  then.apply(values, loaded, of_tile, place, shape);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < VECTOR; i += 2) {
      pairs[half].values[i / 2] = pack<T>(values[half][i], values[half][i + 1]);
    }
  }
}

} // namespace
