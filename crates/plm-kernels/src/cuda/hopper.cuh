// Hopper's own instructions: barriers in shared memory, the copy engine (TMA), and products of a
// warpgroup (wgmma).
//
// Each function is one instruction, or the few that belong together, of the PTX ISA 8.0 (chapters
// "mbarrier", "cp.async.bulk.tensor", "wgmma").
#pragma once

#include "common.cuh"
#include <cuda.h>

constexpr int WARPGROUP = 128;

__device__ inline uint32_t lane() { return threadIdx.x % 32; }

// What is the same in all lanes anyway, in a way that the compiler sees it.
__device__ inline int same_for_warp(int value) { return __shfl_sync(0xffffffff, value, 0); }

// 2^x, to two units in the last place.
__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The sums of a product lie so that of each 8 columns a row's four threads hold two each. This
// exchanges four pairs, of 32 columns, so that each thread has the 8 columns of one: its own
// inverse.
__device__ inline uint4 transpose(const uint4 &pairs) {
  const bool odd = lane() & 1, upper = lane() & 2;
  // Of the first two and of the last two pairs, an even thread keeps the first and an odd one the
  // second.
  const uint32_t other_a = __shfl_xor_sync(0xffffffff, odd ? pairs.x : pairs.y, 1);
  const uint32_t other_b = __shfl_xor_sync(0xffffffff, odd ? pairs.z : pairs.w, 1);
  const uint2 a = odd ? uint2{other_a, pairs.y} : uint2{pairs.x, other_a};
  const uint2 b = odd ? uint2{other_b, pairs.w} : uint2{pairs.z, other_b};
  const uint32_t other_x = __shfl_xor_sync(0xffffffff, upper ? a.x : b.x, 2);
  const uint32_t other_y = __shfl_xor_sync(0xffffffff, upper ? a.y : b.y, 2);
  return upper ? uint4{other_x, other_y, b.x, b.y} : uint4{a.x, a.y, other_x, other_y};
}

// One instruction, which the compiler would otherwise split where registers are short.
__device__ inline void store_block(void *to, const uint4 &block) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(block.x), "r"(block.y), "r"(block.z),
               "r"(block.w));
}

// ---- barriers ----

__device__ inline void barrier_init(uint64_t *barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes barriers that were just initialised known to the copy engine and to the cluster's other
// block.
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// One arrival, and `bytes` more to wait for.
__device__ inline void barrier_expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ inline void barrier_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the same barrier of block `rank` of the cluster.
__device__ inline void barrier_arrive_at(uint64_t *barrier, uint32_t rank) {
  asm volatile("{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(barrier)),
               "r"(rank)
               : "memory");
}

__device__ inline void barrier_wait(uint64_t *barrier, uint32_t parity) {
  asm volatile("{ .reg .pred done;\n"
               "wait: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@done bra passed;\n"
               "bra wait;\n"
               "passed: }" ::"r"(shared_address(barrier)),
               "r"(parity)
               : "memory");
}

// Where in a list of so many a thread is, and which time around.
template <int COUNT> struct Position {
  int index = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++index == COUNT) {
      index = 0;
      parity ^= 1;
    }
  }
};

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// A barrier of `threads` threads of the block, by number.
__device__ inline void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// ---- the copy engine ----

// The box of `map` at (`x`, `y`), to shared memory.
__device__ inline void copy_box(void *to, const CUtensorMap &map, uint64_t *barrier, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   shared_address(to)),
               "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y)
               : "memory");
}

// For a copy of what others read as well: it is to leave the L2 cache last.
__device__ inline uint64_t to_be_kept() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// The box of a `map` of five dimensions at (`x`, 0, 0, 0, `y`), to the same place of every block in
// `blocks` (a bit each), whose barriers at that place are told.
__device__ inline void copy_rows_to_all(void *to, const CUtensorMap &map, uint64_t *barrier, int x, int y, uint16_t blocks,
                                        uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%4, %6, %6, %6, %5}], [%2], %3, %7;" ::"r"(
                   shared_address(to)),
               "l"(&map), "r"(shared_address(barrier)), "h"(blocks), "r"(x), "r"(y), "r"(0), "l"(policy)
               : "memory");
}

// Lets the copy engine and the tensor cores see what this thread has written to shared memory.
__device__ inline void fence_shared_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- products of a warpgroup ----

// A matrix in shared memory as the copy engine lays it out with a swizzle of 128 bytes: rows of 128
// bytes, in groups of eight. It must begin at a multiple of 1,024 bytes.
__device__ inline uint64_t matrix_at(const void *shared) {
  constexpr uint64_t BETWEEN_GROUPS = (1024 >> 4), SWIZZLE_128 = 1;
  return (shared_address(shared) & 0x3ffff) >> 4 | 1ull << 16 | BETWEEN_GROUPS << 32 | SWIZZLE_128 << 62;
}

// The same matrix from byte `bytes` of its rows, or of its first row, on.
__device__ inline uint64_t matrix_from(uint64_t matrix, int bytes) { return matrix + (bytes >> 4); }

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until all but the last `LEFT` groups of products are done.
template <int LEFT> __device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// What each thread of a block of so many begins with, if a multiprocessor has one such block. What
// all warpgroups take together must not be more, or they wait for each other for ever.
constexpr int registers_at_first(int threads) { return 65536 / threads / 8 * 8; }

template <int MORE> __device__ inline void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MORE));
}
template <int FEWER> __device__ inline void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEWER));
}

// What an instruction writes to as text, and as operands: `SUM(sums[i])` of each sum from `i` on.
// clang-format off
#define REGISTERS_32                                                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "               \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_96                                                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "                    \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "                    \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "                    \
  "%59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "                    \
  "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128                                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "               \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "               \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "               \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "               \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "                   \
  "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "                   \
  "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define OPERANDS_8(SUM, i) \
  SUM(sums[i]), SUM(sums[i + 1]), SUM(sums[i + 2]), SUM(sums[i + 3]), SUM(sums[i + 4]), SUM(sums[i + 5]), SUM(sums[i + 6]), SUM(sums[i + 7])
#define OPERANDS_32(SUM, i) OPERANDS_8(SUM, i), OPERANDS_8(SUM, i + 8), OPERANDS_8(SUM, i + 16), OPERANDS_8(SUM, i + 24)
#define OPERANDS_64(SUM, i) OPERANDS_32(SUM, i), OPERANDS_32(SUM, i + 32)
#define OPERANDS_96(SUM, i) OPERANDS_64(SUM, i), OPERANDS_32(SUM, i + 64)
#define OPERANDS_128(SUM, i) OPERANDS_64(SUM, i), OPERANDS_64(SUM, i + 64)

// sums[64 x N] = a[64 x K] * b[N x K] transposed, onto what is in `sums` if `keep`. Both operands
// are in shared memory. `NUMBERS` are a thread's sums, `A`, `B` and `KEEP` the numbers of the
// operands behind them.
#define MULTIPLY(SUMS, SUM, NUMBERS, A, B, KEEP, SHAPE, FLAGS) \
  static __device__ inline void multiply(SUMS (&sums)[NUMBERS], uint64_t a, uint64_t b, bool keep) { \
    asm volatile("{ .reg .pred keep; setp.ne.b32 keep, " KEEP ", 0;\n" \
                 "wgmma.mma_async.sync.aligned." SHAPE " {" REGISTERS_##NUMBERS "}, " A ", " B ", keep" FLAGS "; }" \
                 : OPERANDS_##NUMBERS(SUM, 0) \
                 : "l"(a), "l"(b), "r"(static_cast<int>(keep))); \
  }

// sums[64 x 64] += a[64 x 16], in registers, * b[16 x 64].
#define MULTIPLY_COLUMNS(SHAPE) \
  static __device__ inline void multiply_columns(float (&sums)[32], const uint32_t (&a)[4], uint64_t b) { \
    asm volatile("wgmma.mma_async.sync.aligned." SHAPE " {" REGISTERS_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;" \
                 : OPERANDS_32("+f", 0) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)); \
  }

// By the format of the operands.
template <typename T> struct Products;

#define PRODUCTS_16_BIT(T, NAME) \
  template <> struct Products<T> { \
    using Sum = float; \
    MULTIPLY(float, "+f", 32, "%32", "%33", "%34", "m64n64k16.f32." NAME "." NAME, ", 1, 1, 0, 0") \
    MULTIPLY(float, "+f", 96, "%96", "%97", "%98", "m64n192k16.f32." NAME "." NAME, ", 1, 1, 0, 0") \
    MULTIPLY(float, "+f", 128, "%128", "%129", "%130", "m64n256k16.f32." NAME "." NAME, ", 1, 1, 0, 0") \
    MULTIPLY_COLUMNS("m64n64k16.f32." NAME "." NAME) \
  };

PRODUCTS_16_BIT(__half, "f16")
PRODUCTS_16_BIT(__nv_bfloat16, "bf16")

template <> struct Products<int8_t> {
  using Sum = int;
  MULTIPLY(int, "+r", 128, "%128", "%129", "%130", "m64n256k32.s32.s8.s8", "")
};

// By signed integers.
template <> struct Products<uint8_t> {
  using Sum = int;
  MULTIPLY(int, "+r", 128, "%128", "%129", "%130", "m64n256k32.s32.u8.s8", "")
};

// clang-format on
