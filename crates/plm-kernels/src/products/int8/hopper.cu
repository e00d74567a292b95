// Rows as 8-bit integers, with a scale each: what the products of such integers take. A number that
// is not finite makes the row's scale not finite, and so all that is computed with it.
#include "cuda/rows.cuh"

namespace {

enum class Kind {
  SYMMETRIC,  // -127 to 127, by the largest magnitude
  NORMALISED, // the same, of the row over its root mean square
  POSITIVE,   // of numbers that are not negative, by the largest: 0 to 255
};

// Of pairs of 16-bit numbers, as of two.
using Pairs = Vec<uint32_t, 4>;
constexpr int NUMBERS = 8;

// The integer next to `value`, of two as near the even one, in the lowest byte: in the last bits of
// 1.5 * 2^23 plus it.
__device__ inline uint32_t integer(float value, float inverse) {
  return __float_as_uint(__fadd_rn(__fmul_rn(value, inverse), 12582912.0f));
}

// The lowest bytes of four words.
__device__ inline uint32_t bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

template <Kind KIND>
__device__ inline void quantise_rows(const __nv_bfloat16 *x, uint8_t *integers, float *scales, int rows, int width, float eps) {
  constexpr float LEVELS = KIND == Kind::POSITIVE ? 255.0f : 127.0f;
  __shared__ uint32_t most_scratch[MAX_THREADS / 32];
  __shared__ float squares_scratch[MAX_THREADS / 32];
  const bool is_row = row_of_thread() < rows;
  const size_t row = row_of_thread() * width;

  Pairs values[VECTORS];
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * NUMBERS;
    values[v] = {};
    if (is_row && column < width) {
      values[v] = load_vec<uint32_t, 4>(reinterpret_cast<const uint32_t *>(x + row + column));
    }
  }
  // Magnitudes are in the order of their bits, and those of a NaN above all.
  uint32_t most_of_pairs = 0;
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = values[v].values[i];
      most_of_pairs = __vmaxu2(most_of_pairs, pair & 0x7fff7fff);
      if (KIND == Kind::NORMALISED) {
        const float2 both = unpack<__nv_bfloat16>(pair);
        squares = fmaf(both.x, both.x, squares);
        squares = fmaf(both.y, both.y, squares);
      }
    }
  }
  const uint32_t most_of_warp = __reduce_max_sync(0xffffffff, max(most_of_pairs & 0xffff, most_of_pairs >> 16));
  const uint32_t most_bits = over_warps(most_of_warp, most_scratch, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float most = unpack<__nv_bfloat16>(most_bits).x;
  float unit = 1.0f;
  if (KIND == Kind::NORMALISED) {
    unit = sqrtf(row_sum(squares, squares_scratch) / width + eps);
  }
  if (is_row && threadIdx.x == 0) {
    scales[row_of_thread()] = most / LEVELS / unit;
  }
  // Of a row of next to nothing, zeros.
  const float inverse = most > 1e-30f ? LEVELS / most : 0.0f;

#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * NUMBERS;
    if (is_row && column < width) {
      Vec<uint32_t, 2> out;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 first = unpack<__nv_bfloat16>(values[v].values[2 * i]);
        const float2 second = unpack<__nv_bfloat16>(values[v].values[2 * i + 1]);
        out.values[i] = bytes(integer(first.x, inverse), integer(first.y, inverse), integer(second.x, inverse),
                              integer(second.y, inverse));
      }
      store_vec<uint32_t, 2>(reinterpret_cast<uint32_t *>(integers + row + column), out);
    }
  }
}

} // namespace

// `integers` `[rows, width]`, by their bytes, and `scales` `[rows]` from `x` `[rows, width]`.
#define QUANTISE(KIND, NAME)                                                                                           \
  extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                                            \
      quantise_##NAME(const __nv_bfloat16 *x, uint8_t *integers, float *scales, int rows, int width, float eps) {      \
    quantise_rows<Kind::KIND>(x, integers, scales, rows, width, eps);                                                  \
  }

QUANTISE(SYMMETRIC, symmetric)
QUANTISE(NORMALISED, normalised)
QUANTISE(POSITIVE, positive)
