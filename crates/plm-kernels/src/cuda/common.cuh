// What the kernels share: number formats and 16-byte vectors.
//
// Every kernel computes in f32 and rounds once, where it stores. No kernel uses atomics, and every
// sum runs in an order that the shape of one row or one sequence fixes: neighbours in the batch
// never change a bit.
#pragma once

#include "contract.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(__half x) { return __half2float(x); }
__device__ inline float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ inline T from_f32(float x);
template <> __device__ inline float from_f32<float>(float x) { return x; }
template <> __device__ inline __half from_f32<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 from_f32<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// `N` neighbouring numbers that one instruction loads or stores, if they fill 16 bytes or less.
template <typename T, int N> struct alignas(sizeof(T) * N) Vec {
  T values[N];
};

template <typename T> constexpr int VEC = contract::VECTOR_BYTES / sizeof(T);

template <typename T, int N> __device__ inline Vec<T, N> load_vec(const T *from) {
  return *reinterpret_cast<const Vec<T, N> *>(from);
}

template <typename T, int N> __device__ inline void store_vec(T *to, const Vec<T, N> &vec) {
  *reinterpret_cast<Vec<T, N> *>(to) = vec;
}

// Two numbers of 16 bits.
template <typename T> __device__ inline uint32_t pack(float low, float high) {
  Vec<T, 2> pair;
  pair.values[0] = from_f32<T>(low);
  pair.values[1] = from_f32<T>(high);
  return *reinterpret_cast<const uint32_t *>(&pair);
}

// Of a `pack`.
template <typename T> __device__ inline float2 unpack(uint32_t pair);
template <> __device__ inline float2 unpack<__half>(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
}
template <> __device__ inline float2 unpack<__nv_bfloat16>(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}

__device__ inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// What a block of an attention works on: the sequence, and its first query row, counted from the
// sequence's start.
struct QueryTile {
  uint32_t sequence;
  uint32_t first_query;
};
SAME_LAYOUT_QueryTile(QueryTile);

// The sequence that `token` is in: the last whose start is not past it.
__device__ inline int sequence_of(const uint32_t *cu_seqlens, int num_sequences, uint32_t token) {
  int low = 0, high = num_sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (cu_seqlens[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}
