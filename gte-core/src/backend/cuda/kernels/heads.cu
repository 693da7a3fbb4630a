// What stands behind the encoder: small dense layers in f32, and vectors of unit length.
#include "numbers.cuh"

constexpr int WARPS = 8;

/// The dot product of two rows of n values, the same bits in every lane of a warp.
DEVICE float dot(const float* a, const float* b, int n) {
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < n; i += 32)
        sum = fmaf(a[i], b[i], sum);
    return warp_sum(sum);
}

/// The activations of heads: PyTorch's modules of these names.
DEVICE float head_activation(int activation, float x) {
    switch (activation) {
    case TANH:
        return tanhf(x);
    case SIGMOID:
        return divided(1.0f, -x);
    default:
        return activate(activation, x);
    }
}

/// y = activation(weight · x + bias) + residual for each row of x, which is (rows × inputs); weight is
/// (outputs × inputs). `bias` may be null. The residual is x if `add_input`, and `projection` · x if that is not null.
/// One warp per value: launch with ⌈rows · outputs / 8⌉ blocks of 256 threads.
KERNEL(256)
dense(const float* x, const float* weight, const float* bias, const float* projection, float* y, int add_input,
      int activation, int rows, int inputs, int outputs) {
    const size_t number = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const size_t row = number / outputs;
    const int output = number % outputs;
    if (row >= (size_t)rows)
        return;
    x += row * inputs;
    const float sum = dot(x, weight + (size_t)output * inputs, inputs) + (bias ? bias[output] : 0.0f);
    float value = head_activation(activation, sum);
    if (add_input)
        value += x[output];
    if (projection)
        value += dot(x, projection + (size_t)output * inputs, inputs);
    if (threadIdx.x % 32 == 0)
        y[row * outputs + output] = value;
}

/// x ← x / max(|x|, 1e-12) for each row, in place. Launch with (rows) blocks of 256 threads.
KERNEL(256) normalize(float* x, int width) {
    __shared__ float sums[32];
    x += (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        squares = fmaf(x[i], x[i], squares);
    const float scale = 1.0f / fmaxf(sqrtf(block_sum(squares, sums)), 1e-12f);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        x[i] *= scale;
}
