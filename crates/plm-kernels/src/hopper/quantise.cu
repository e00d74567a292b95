// Rows as 8-bit integers, with a scale each: what the products of such integers take.
//
// One block per row, which stays in registers between the passes over it. Each thread holds up to `NV` vectors of 16 bytes. A
// number that is not finite makes the row's scale not finite, and so all that is computed with it.
#include "../common.cuh"

namespace {

enum class Kind {
  SYMMETRIC,  // -127 to 127, by the largest magnitude
  NORMALISED, // the same, of the row over its root mean square
  POSITIVE,   // of numbers that are not negative, by the largest: 0 to 255
};

__device__ inline float max_or_nan(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
  return most;
}

// The largest `value` of the block, known to all its threads. `scratch` has room for 32 numbers.
__device__ inline float block_max(float value, float *scratch) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = max_or_nan(value, __shfl_xor_sync(0xffffffff, value, offset));
  }
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = value;
  }
  __syncthreads();
  const int warps = blockDim.x / 32;
  float most = scratch[0];
  for (int warp = 1; warp < warps; ++warp) {
    most = max_or_nan(most, scratch[warp]);
  }
  return most;
}

template <typename T, int NV, Kind KIND>
__device__ inline void quantise_row(const T *x, uint8_t *integers, float *scales, int width, float eps) {
  constexpr int N = VEC<T>;
  constexpr float LEVELS = KIND == Kind::POSITIVE ? 255.0f : 127.0f;
  __shared__ float scratch[2][32];
  const size_t row = static_cast<size_t>(blockIdx.x) * width;

  Vec<T, N> values[NV];
  float most = 0.0f, squares = 0.0f;
#pragma unroll
  for (int v = 0; v < NV; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (column < width) {
      values[v] = load_vec<T, N>(x + row + column);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float value = to_f32(values[v].values[i]);
        most = max_or_nan(most, KIND == Kind::POSITIVE ? value : fabsf(value));
        squares = fmaf(value, value, squares);
      }
    }
  }
  most = block_max(most, scratch[0]);
  float unit = 1.0f;
  if (KIND == Kind::NORMALISED) {
    unit = sqrtf(block_sum(squares, scratch[1]) / width + eps);
  }
  if (threadIdx.x == 0) {
    scales[blockIdx.x] = most / LEVELS / unit;
  }
  // Of a row of next to nothing, zeros.
  const float inverse = most > 1e-30f ? LEVELS / most : 0.0f;

#pragma unroll
  for (int v = 0; v < NV; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (column < width) {
      Vec<uint8_t, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        out.values[i] = static_cast<uint8_t>(__float2int_rn(to_f32(values[v].values[i]) * inverse));
      }
      store_vec<uint8_t, N>(integers + row + column, out);
    }
  }
}

} // namespace

// `integers` `[rows, width]`, by their bytes, and `scales` `[rows]` from `x` `[rows, width]`.
#define QUANTISE(KIND, NAME, NV)                                                                                       \
  extern "C" __global__ void quantise_##NAME##_##NV(const __nv_bfloat16 *x, uint8_t *integers, float *scales,          \
                                                    int width, float eps) {                                            \
    quantise_row<__nv_bfloat16, NV, Kind::KIND>(x, integers, scales, width, eps);                                      \
  }

#define QUANTISES(KIND, NAME)                                                                                          \
  QUANTISE(KIND, NAME, 1)                                                                                              \
  QUANTISE(KIND, NAME, 2)                                                                                              \
  QUANTISE(KIND, NAME, 4)                                                                                              \
  QUANTISE(KIND, NAME, 8)

QUANTISES(SYMMETRIC, symmetric)
QUANTISES(NORMALISED, normalised)
QUANTISES(POSITIVE, positive)
