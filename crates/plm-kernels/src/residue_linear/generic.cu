// The product of residues' rows with a few rows of weights.
#include "cuda/common.cuh"

constexpr int ROWS = contract::RESIDUE_LINEAR_ROWS;
constexpr int THREAD_ROWS = contract::RESIDUE_LINEAR_THREAD_ROWS;
constexpr int MAX_OUTPUTS = contract::RESIDUE_LINEAR_OUTPUTS;
// Inputs that are summed on their own before they join the total.
constexpr int STEP = 32;
static_assert(ROWS % THREAD_ROWS == 0, "threads take all rows of a block");
static_assert(MAX_OUTPUTS * (ROWS / THREAD_ROWS) <= 1024, "a block has no more threads");

// `y` `[total_residues, outputs]` of `x` `[total_tokens, inputs]`, `weight` `[outputs, inputs]` and
// `bias` `[outputs]`, without the first and the last row of each sequence, the special tokens. A
// block is `ROWS` tokens; a thread has one output (x) of `THREAD_ROWS` of them (y). Each row is
// summed in one order, whatever is beside it.
template <typename T, typename To>
__device__ inline void multiply_residues(const T *x, const T *weight, const float *bias, const uint32_t *cu_seqlens,
                                         int num_sequences, To *y, int tokens, int inputs) {
  __shared__ float rows[ROWS][STEP + 1], weights[MAX_OUTPUTS][STEP + 1];
  const int outputs = blockDim.x, output = threadIdx.x;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int first_token = blockIdx.x * ROWS, first_row = threadIdx.y * THREAD_ROWS;
  float totals[THREAD_ROWS] = {};
  for (int first = 0; first < inputs; first += STEP) {
    for (int unit = thread; unit < ROWS * STEP; unit += threads) {
      const int row = unit / STEP, input = unit % STEP;
      const bool is_there = first_token + row < tokens && first + input < inputs;
      rows[row][input] = is_there ? to_f32(x[static_cast<size_t>(first_token + row) * inputs + first + input]) : 0.0f;
    }
    for (int unit = thread; unit < outputs * STEP; unit += threads) {
      const int row = unit / STEP, input = unit % STEP;
      weights[row][input] =
          first + input < inputs ? to_f32(weight[static_cast<size_t>(row) * inputs + first + input]) : 0.0f;
    }
    __syncthreads();
    float partial[THREAD_ROWS] = {};
#pragma unroll 8
    for (int input = 0; input < STEP; ++input) {
      const float factor = weights[output][input];
#pragma unroll
      for (int row = 0; row < THREAD_ROWS; ++row) {
        partial[row] = fmaf(rows[first_row + row][input], factor, partial[row]);
      }
    }
#pragma unroll
    for (int row = 0; row < THREAD_ROWS; ++row) {
      totals[row] += partial[row];
    }
    __syncthreads();
  }
  const float added = bias[output];
#pragma unroll
  for (int row = 0; row < THREAD_ROWS; ++row) {
    const int token = first_token + first_row + row;
    if (token >= tokens) {
      break;
    }
    const int sequence = sequence_of(cu_seqlens, num_sequences, token);
    if (token != cu_seqlens[sequence] && token + 1 != cu_seqlens[sequence + 1]) {
      const size_t residue = token - 1 - 2 * static_cast<size_t>(sequence);
      y[residue * outputs + output] = from_f32<To>(totals[row] + added);
    }
  }
}

#define RESIDUE_LINEAR_TO(T, NAME, TO, TO_NAME)                                                                        \
  extern "C" __global__ void residue_linear_##NAME##_##TO_NAME(const T *x, const T *weight, const float *bias,         \
                                                               const uint32_t *cu_seqlens, int num_sequences, TO *y,   \
                                                               int tokens, int inputs) {                               \
    multiply_residues<T, TO>(x, weight, bias, cu_seqlens, num_sequences, y, tokens, inputs);                           \
  }

#define RESIDUE_LINEAR(T, NAME)                                                                                        \
  RESIDUE_LINEAR_TO(T, NAME, float, f32)                                                                               \
  RESIDUE_LINEAR_TO(T, NAME, __half, f16)

RESIDUE_LINEAR(float, f32)
RESIDUE_LINEAR(__half, f16)
RESIDUE_LINEAR(__nv_bfloat16, bf16)
