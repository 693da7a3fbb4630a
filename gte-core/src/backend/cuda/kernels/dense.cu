// The layers after the encoder, in f32: dense layers, classifiers, the weights of sparse vectors,
// and unit vectors per token.
#include "numbers.cuh"

/// The activations of `activate`, and those that only these layers have.
DEVICE float activate_dense(int activation, float x) {
    switch (activation) {
    case TANH:
        return tanhf(x);
    case SIGMOID:
        return divided(1.0f, -x);
    default:
        return activate(activation, x);
    }
}

/// The dot product of two rows, the same bits in every lane of a warp.
DEVICE float dot(const float* a, const float* b, int n) {
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < n; i += 32)
        sum = fmaf(a[i], b[i], sum);
    return warp_sum(sum);
}

/// y = activation(x · weightᵀ + bias) + residual. x is (rows × inputs), `weight` (outputs ×
/// inputs), y (rows × outputs). `bias` (outputs) may be null. The residual is x · projectedᵀ, or x
/// if `adds_input`, or nothing; `projected` is (outputs × inputs), or null.
///
/// A warp computes an output. Launch with (rows, ⌈outputs / 8⌉) blocks of 32 · min(8, outputs)
/// threads.
KERNEL(256)
dense(const float* x, const float* weight, const float* bias, const float* projected, float* y, int activation,
      int adds_input, int inputs, int outputs) {
    const int output = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (output >= outputs)
        return;
    const float* const row = x + (size_t)blockIdx.x * inputs;
    const size_t at = (size_t)output * inputs;
    float sum = dot(row, weight + at, inputs);
    if (bias)
        sum += bias[output];
    sum = activate_dense(activation, sum);
    if (projected)
        sum += dot(row, projected + at, inputs);
    else if (adds_input)
        sum += row[output];
    if (threadIdx.x % 32 == 0)
        y[(size_t)blockIdx.x * outputs + output] = sum;
}

/// Scales each row of x, which is (rows × width), to unit length. A row of zeros stays zero. Launch
/// with (rows) blocks of 128 threads.
KERNEL(128) unit(float* x, int width) {
    __shared__ float sums[32];
    float* const row = x + (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        squares = fmaf(row[i], row[i], squares);
    const float scale = 1.0f / fmaxf(sqrtf(block_sum(squares, sums)), 1e-12f);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        row[i] *= scale;
}
