// Reductions over a row that stays in registers.
//
// A block is of `blockDim.y` rows, each of `blockDim.x` threads: whole warps, and one where that is
// enough, so that several rows' loads are in flight on a multiprocessor while none waits for a
// barrier. Each thread holds up to `VECTORS` vectors of 16 bytes: vector `threadIdx.x`, and those a
// multiple of `blockDim.x` further.
#pragma once

#include "common.cuh"

constexpr int VECTORS = contract::ROW_VECTORS;
constexpr int MAX_THREADS = contract::ROW_THREADS;

__device__ inline size_t row_of_thread() { return static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y; }

// What a row's warps have each found, combined by `combine` in their order and known to all its
// threads. `scratch` has room for what each warp of a block has found, and may be used again after
// the next barrier.
template <typename T, typename Combine> __device__ inline T over_warps(T of_warp, T *scratch, const Combine &combine) {
  const int warps = blockDim.x / 32;
  if (warps == 1) {
    return of_warp;
  }
  T *of_row = scratch + threadIdx.y * warps;
  if (threadIdx.x % 32 == 0) {
    of_row[threadIdx.x / 32] = of_warp;
  }
  __syncthreads();
  T all = of_row[0];
  for (int warp = 1; warp < warps; ++warp) {
    all = combine(all, of_row[warp]);
  }
  return all;
}

// The sum of the row's `value`s.
__device__ inline float row_sum(float value, float *scratch) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, offset);
  }
  return over_warps(value, scratch, [](float a, float b) { return a + b; });
}
