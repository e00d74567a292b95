// Products in tiles of 192 outputs: for widths that leave much of the last of wide tiles empty, and
// for fewer inputs than those take.
#include "contract.cuh"

constexpr int OUTPUTS = contract::NARROW_TILE_OUTPUTS;

#include "products/tiles/linear.cuh"

LINEAR_IN_16_BITS(f16, __half)
LINEAR_IN_16_BITS(bf16, __nv_bfloat16)
