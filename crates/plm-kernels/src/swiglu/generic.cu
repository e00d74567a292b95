// SwiGLU without its products: SiLU of each gate, times its value.
#include "cuda/common.cuh"

// Rows of one thread: it keeps their loads in flight together.
constexpr int ROWS = contract::SWIGLU_ROWS;

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

// `x` `[rows, 2 * width]`, `gated` `[rows, width]`. A block is `ROWS` rows (x) and a stretch of
// columns (y); a thread has a vector of neighbouring columns.
template <typename T> __device__ inline void swiglu_rows(const T *x, T *gated, int rows, int width) {
  constexpr int N = VEC<T>;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= width) {
    return;
  }
  const size_t first = static_cast<size_t>(blockIdx.x) * ROWS;
  Vec<T, N> gates[ROWS], values[ROWS];
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    if (first + row < rows) {
      const T *at = x + (first + row) * 2 * width + column;
      gates[row] = load_vec<T, N>(at);
      values[row] = load_vec<T, N>(at + width);
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    if (first + row < rows) {
      Vec<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        out.values[i] = from_f32<T>(silu(to_f32(gates[row].values[i])) * to_f32(values[row].values[i]));
      }
      store_vec<T, N>(gated + (first + row) * width + column, out);
    }
  }
}

#define SWIGLU(T, NAME)                                                                                                \
  extern "C" __global__ void swiglu_##NAME(const T *x, T *gated, int rows, int width) {                                \
    swiglu_rows<T>(x, gated, rows, width);                                                                             \
  }

SWIGLU(float, f32)
SWIGLU(__half, f16)
SWIGLU(__nv_bfloat16, bf16)
