// The sum of a layer's output and the stream, and its norm.
//
// A block computes one row, which it holds in registers, so that each value is read once and
// written once. Launch with (rows) blocks of ⌈width / 256⌉ · 32 threads, up to 1,024.
#include "norm.cuh"

/// y = x + residual, z = norm(y). Either of the two inputs may be null (of x, its values), and
/// either of the two outputs: `stream`, which is f32 and becomes z if `stream_is_normed` and y
/// otherwise, and `operand`, which becomes z in the type of products. This covers norms before and
/// after a layer.
///
/// `stream` may be `residual`.
template <class T>
DEVICE void add_norm(const Sums<T>& x, const float* residual, float* stream, T* operand, const float* gamma,
                     const float* beta, float eps, int norm, int stream_is_normed, int width) {
    constexpr int V = VECTOR<T>;
    const size_t row = (size_t)blockIdx.x * width;
    const int thread = threadIdx.x, threads = blockDim.x;
    float v[HELD] = {};
#pragma unroll
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        if (x.values)
            load<V>(v + i, x, blockIdx.x, width, column);
        if (residual) {
            float r[V];
            load<V>(r, residual + row + column);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[i + j] += r[j];
        }
        if (stream && !stream_is_normed)
            store<V>(stream + row + column, v + i);
    }
    norm_row<V>(v, norm, gamma, beta, eps, width);
#pragma unroll
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        if (stream && stream_is_normed)
            store<V>(stream + row + column, v + i);
        if (operand)
            store<V>(operand + row + column, v + i);
    }
}

// Scales and bias may be null, as in `Sums`.
#define ADD_NORM(T)                                                                                               \
    KERNEL(1024)                                                                                                  \
    add_norm_##T(const T* x, const float* of_rows, const float* of_columns, const float* bias,                   \
                 const float* residual, float* stream, T* operand, const float* gamma, const float* beta,        \
                 float eps, int norm, int stream_is_normed, int width) {                                         \
        add_norm<T>({x, of_rows, of_columns, bias}, residual, stream, operand, gamma, beta, eps, norm,            \
                    stream_is_normed, width);                                                                     \
    }

using f32 = float;
ADD_NORM(f32)
ADD_NORM(f16)
ADD_NORM(bf16)
