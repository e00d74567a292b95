// The projection to queries, keys and values of tokens, where it is known for each of the
// vocabulary but for query scale and positions: those of `products/tiles`, to the bit.
#include "contract.cuh"

// What follows a product asks for it. Here nothing is cut into tiles.
constexpr int OUTPUTS = contract::WIDE_TILE_OUTPUTS;

#include "products/tiles/then.cuh"

namespace {

constexpr int HEADS_TOGETHER = 32 / 4; // of a warp, whose threads take a piece by fours

template <typename T>
__device__ inline void project_token(const T *table, uint32_t vocabulary, const uint32_t *token_ids, const Rotary<T> &rotary,
                                     T *y, const Shape &shape) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= shape.rows) {
    return;
  }
  typename Rotary<T>::OfTile of_row;
  of_row.positions[0] = rotary.positions[row];
  typename Rotary<T>::Loaded angles;
  rotary.load(angles, of_row, {row, 0, 0, 0}, shape);
  const uint32_t id = token_ids[row];
  const bool is_known = id < vocabulary;
  const T *from = table + static_cast<size_t>(is_known ? id : 0) * shape.outputs + Place::column(0);
  T *to = y + static_cast<size_t>(row) * shape.outputs + Place::column(0);
#pragma unroll 2
  for (int head = lane() / 4 * HEAD_DIM; head < shape.outputs; head += HEADS_TOGETHER * HEAD_DIM) {
    Pairs pairs[2] = {load_pairs(from + head), load_pairs(from + head + BETWEEN)};
    apply_to<T>(pairs, rotary, angles, of_row, {row, head, 0, head}, shape);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t(&four)[VECTOR / 2] = pairs[half].values;
      const uint32_t nan = pack<T>(NAN, NAN);
      store_block(to + head + half * BETWEEN,
                  is_known ? uint4{four[0], four[1], four[2], four[3]} : uint4{nan, nan, nan, nan});
    }
  }
}

} // namespace

// `y` `[rows, outputs]` of `table` `[vocabulary, outputs]`, rows by `token_ids` `[rows]`. One warp
// per row. A token that is not in the table becomes NaN.
#define PROJECT_TOKENS(T, NAME)                                                                                        \
  extern "C" __global__ void project_tokens_##NAME(const T *table, uint32_t vocabulary, const uint32_t *token_ids,     \
                                                   Rotary<T> rotary, T *y, int rows, int outputs) {                    \
    project_token<T>(table, vocabulary, token_ids, rotary, y, {rows, 0, outputs});                                     \
  }

PROJECT_TOKENS(__half, f16)
PROJECT_TOKENS(__nv_bfloat16, bf16)
