// Layer normalisation over rows, alone and together with the residual addition before it.
//
// One block per row, which stays in registers between the passes over it: mean, variance about the mean, result. Each
// thread holds up to `NV` vectors of 16 bytes.
#include "common.cuh"

template <typename T, int NV, bool RESIDUAL>
__device__ inline void layer_norm_row(const T *x, const T *projection, const T *parameters, T *sums, T *normalised,
                                      int hidden, float eps) {
  constexpr int N = VEC<T>;
  __shared__ float scratch[2][32];
  const size_t row = static_cast<size_t>(blockIdx.x) * hidden;
  const T *projection_bias = parameters;
  const T *weight = parameters + (RESIDUAL ? hidden : 0);
  const T *bias = weight + hidden;

  float values[NV][N];
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < NV; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (column < hidden) {
      const Vec<T, N> in = load_vec<T, N>(x + row + column);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        values[v][i] = to_f32(in.values[i]);
      }
      if (RESIDUAL) {
        const Vec<T, N> added = load_vec<T, N>(projection + row + column);
        const Vec<T, N> added_bias = load_vec<T, N>(projection_bias + column);
        Vec<T, N> out;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          values[v][i] += to_f32(added.values[i]) + to_f32(added_bias.values[i]);
          out.values[i] = from_f32<T>(values[v][i]);
        }
        store_vec<T, N>(sums + row + column, out);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sum += values[v][i];
      }
    }
  }
  const float mean = block_sum(sum, scratch[0]) / hidden;

  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < NV; ++v) {
    if ((v * blockDim.x + threadIdx.x) * N < hidden) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float deviation = values[v][i] - mean;
        squares += deviation * deviation;
      }
    }
  }
  const float inverse_deviation = 1.0f / sqrtf(block_sum(squares, scratch[1]) / hidden + eps);

#pragma unroll
  for (int v = 0; v < NV; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (column < hidden) {
      const Vec<T, N> scale = load_vec<T, N>(weight + column);
      const Vec<T, N> shift = load_vec<T, N>(bias + column);
      Vec<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float normal = (values[v][i] - mean) * inverse_deviation;
        out.values[i] = from_f32<T>(fmaf(normal, to_f32(scale.values[i]), to_f32(shift.values[i])));
      }
      store_vec<T, N>(normalised + row + column, out);
    }
  }
}

// `normalised` `[rows, hidden]` from `x` `[rows, hidden]` and `parameters` `[2, hidden]`: weight, bias.
#define LAYER_NORM(T, NAME, NV)                                                                                        \
  extern "C" __global__ void layer_norm_##NAME##_##NV(const T *x, const T *parameters, T *normalised, int hidden,      \
                                                      float eps) {                                                     \
    layer_norm_row<T, NV, false>(x, nullptr, parameters, nullptr, normalised, hidden, eps);                            \
  }                                                                                                                    \
  extern "C" __global__ void residual_layer_norm_##NAME##_##NV(const T *x, const T *projection, const T *parameters,   \
                                                               T *sums, T *normalised, int hidden, float eps) {        \
    layer_norm_row<T, NV, true>(x, projection, parameters, sums, normalised, hidden, eps);                             \
  }

#define LAYER_NORMS(T, NAME)                                                                                           \
  LAYER_NORM(T, NAME, 1)                                                                                               \
  LAYER_NORM(T, NAME, 2)                                                                                               \
  LAYER_NORM(T, NAME, 4)                                                                                               \
  LAYER_NORM(T, NAME, 8)

LAYER_NORMS(float, f32)
LAYER_NORMS(__half, f16)
LAYER_NORMS(__nv_bfloat16, bf16)
