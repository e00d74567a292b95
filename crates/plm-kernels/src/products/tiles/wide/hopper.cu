// Products in tiles of 256 outputs.
#include "contract.cuh"

constexpr int OUTPUTS = contract::WIDE_TILE_OUTPUTS;

#include "products/tiles/linear.cuh"

LINEAR_IN_16_BITS(f16, __half)
LINEAR_IN_16_BITS(bf16, __nv_bfloat16)

LINEAR(positive_gelu_int8, int8_t, __nv_bfloat16, Scales, PositiveGelu)
LINEAR(rotary_int8, int8_t, __nv_bfloat16, Scales, Rotary)
LINEAR(residual_int8, int8_t, __nv_bfloat16, Scales, Residual)
LINEAR(residual_uint8, uint8_t, __nv_bfloat16, Scales, Residual)
LINEAR(nothing_int8, int8_t, __nv_bfloat16, Scales, Nothing)
