// What the sums of `linear.cuh` are multiplied by, and what is added, before they are rounded.
#pragma once

#include "tiles.cuh"

namespace {

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
SAME_LAYOUT_Bias(Bias);

// The same for rows over their deviation, as a layer norm gives them. Where the weights' rows have
// a mean of zero, that of a row of `x` makes no difference (but by the weights' rounding).
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
      // Wrong by some tenths where the mean is a thousand times the deviation: a row that 16 bits
      // do not hold any better.
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
SAME_LAYOUT_Normalised(Normalised);

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
SAME_LAYOUT_Scales(Scales);

} // namespace
