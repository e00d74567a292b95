// Layer normalisation over rows, alone and together with the residual addition before it: mean,
// variance about the mean, result.
#include "cuda/rows.cuh"

template <typename T, bool RESIDUAL>
__device__ inline void layer_norm_rows(const T *x, const T *projection, const T *parameters, T *sums, T *normalised, int rows,
                                       int hidden, float eps) {
  constexpr int N = VEC<T>;
  __shared__ float scratch[2][MAX_THREADS / 32];
  const bool is_row = row_of_thread() < rows;
  const size_t row = row_of_thread() * hidden;
  const T *projection_bias = parameters;
  const T *weight = parameters + (RESIDUAL ? hidden : 0);
  const T *bias = weight + hidden;

  float values[VECTORS][N];
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (is_row && column < hidden) {
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
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        values[v][i] = 0.0f;
      }
    }
  }
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += values[v][i];
    }
  }
  const float mean = row_sum(sum, scratch[0]) / hidden;

  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    if ((v * blockDim.x + threadIdx.x) * N < hidden) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float deviation = values[v][i] - mean;
        squares += deviation * deviation;
      }
    }
  }
  const float inverse_deviation = 1.0f / sqrtf(row_sum(squares, scratch[1]) / hidden + eps);

#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int column = (v * blockDim.x + threadIdx.x) * N;
    if (is_row && column < hidden) {
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

// `normalised` `[rows, hidden]` from `x` `[rows, hidden]` and `parameters` `[2, hidden]`: weight,
// bias. With a residual addition, also `sums` `[rows, hidden]` from `projection` `[rows, hidden]`,
// and before those parameters its bias.
#define LAYER_NORM(T, NAME)                                                                                            \
  extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                                            \
      layer_norm_##NAME(const T *x, const T *parameters, T *normalised, int rows, int hidden, float eps) {             \
    layer_norm_rows<T, false>(x, nullptr, parameters, nullptr, normalised, rows, hidden, eps);                         \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(MAX_THREADS)                                                            \
      residual_layer_norm_##NAME(const T *x, const T *projection, const T *parameters, T *sums, T *normalised,         \
                                 int rows, int hidden, float eps) {                                                    \
    layer_norm_rows<T, true>(x, projection, parameters, sums, normalised, rows, hidden, eps);                          \
  }

LAYER_NORM(float, f32)
LAYER_NORM(__half, f16)
LAYER_NORM(__nv_bfloat16, bf16)
