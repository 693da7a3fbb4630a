// A norm of one row that a block holds, HELD values per thread. `norm.cu` and `embedding.cu` use
// it.
#pragma once
#include "numbers.cuh"

/// The numbers are those of the host.
enum Norm { NO_NORM, LAYER_NORM, RMS_NORM };

/// v ← norm(v). Columns at or beyond `width` do not belong to the row. `beta` may be null.
///
/// The variance is computed from the deviations from the mean, in two passes over registers. The
/// sum of squares minus the square of the mean would lose all digits if the mean is large.
template <int V>
DEVICE void norm_row(float (&v)[HELD], int norm, const float* gamma, const float* beta, float eps, int width) {
    __shared__ float sums[2][32];
    if (norm == NO_NORM)
        return;
    const int thread = threadIdx.x, threads = blockDim.x;
    float mean = 0.0f;
    if (norm == LAYER_NORM) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < HELD; i++)
            sum += column_of<V>(thread, threads, i) < width ? v[i] : 0.0f;
        mean = block_sum(sum, sums[0]) / (float)width;
    }
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        v[i] -= mean;
        squares += column_of<V>(thread, threads, i) < width ? v[i] * v[i] : 0.0f;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, sums[1]) / (float)width + eps);
#pragma unroll
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float g[V], b[V] = {};
        load<V>(g, gamma + column);
        if (beta)
            load<V>(b, beta + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[i + j] = v[i + j] * scale * g[j] + b[j];
    }
}
