// What follows a linear layer's sums: a bias, an activation, or one half as the gate of the other.
//
// A thread computes HELD values of one row. Launch with (rows, ⌈width / (HELD · threads)⌉) blocks;
// any number of threads, 128 unless a row is shorter.
#include "numbers.cuh"

template <class T> DEVICE void load_biased(float* v, const T* x, const float* bias, size_t at, int column) {
    constexpr int V = VECTOR<T>;
    load<V>(v, x + at);
    if (bias) {
        float b[V];
        load<V>(b, bias + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] += b[j];
    }
}

/// y = activation(x + bias), both (rows × width). `bias` may be null, `y` may be `x`.
template <class T>
DEVICE void activate_rows(const T* x, const float* bias, T* y, int activation, int width) {
    constexpr int V = VECTOR<T>;
    const size_t row = (size_t)blockIdx.x * width;
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
#pragma unroll 1 // one iteration for 16-bit values; f32 does not need eight copies of all activations
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float v[V];
        load_biased(v, x, bias, row + column, column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = activate(activation, v[j]);
        store<V>(y + row + column, v);
    }
}

/// y = activation(a) · b for the halves a and b of x + bias, which is (rows × 2·width): a is the
/// first half, or the second if `second_is_activated`. y is (rows × width), and must not be `x`,
/// whose rows are longer.
template <class T>
DEVICE void gate_rows(const T* x, const float* bias, T* y, int activation, int second_is_activated, int width) {
    constexpr int V = VECTOR<T>;
    const size_t row = (size_t)blockIdx.x * width;
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
    const int of_a = second_is_activated ? width : 0, of_b = width - of_a;
#pragma unroll 1 // one iteration for 16-bit values; f32 does not need eight copies of all activations
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float a[V], b[V];
        load_biased(a, x, bias, 2 * row + of_a + column, of_a + column);
        load_biased(b, x, bias, 2 * row + of_b + column, of_b + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            a[j] = activate(activation, a[j]) * b[j];
        store<V>(y + row + column, a);
    }
}

#define ACTIVATION(T)                                                                                             \
    KERNEL(1024) activate_##T(const T* x, const float* bias, T* y, int activation, int width) {                   \
        activate_rows(x, bias, y, activation, width);                                                             \
    }                                                                                                             \
    KERNEL(1024)                                                                                                  \
    gate_##T(const T* x, const float* bias, T* y, int activation, int second_is_activated, int width) {          \
        gate_rows(x, bias, y, activation, second_is_activated, width);                                            \
    }

using f32 = float;
ACTIVATION(f32)
ACTIVATION(f16)
ACTIVATION(bf16)
