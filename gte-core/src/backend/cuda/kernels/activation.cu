// What follows a linear layer's sums: scales, a bias, an activation, or one half as the gate of the
// other.
//
// A thread computes HELD values of one row. Launch with (rows, ⌈width / (HELD · threads)⌉) blocks;
// any number of threads, 128 unless a row is shorter.
#include "numbers.cuh"

/// y = activation(x), both (rows × width). `y` may be the sums' values: with IDENTITY, what is left
/// to do with them is done in place.
template <class T> DEVICE void activate_rows(const Sums<T>& x, T* y, int activation, int width) {
    constexpr int V = VECTOR<T>;
    const size_t row = blockIdx.x;
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
#pragma unroll 1 // one iteration for 16-bit values; f32 does not need eight copies of all activations
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float v[V];
        load<V>(v, x, row, width, column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = activate(activation, v[j]);
        store<V>(y + row * width + column, v);
    }
}

/// y = activation(a) · b for the halves a and b of x, which is (rows × 2·width): a is the first
/// half, or the second if `second_is_activated`. y is (rows × width), and must not be the sums'
/// values, whose rows are longer.
template <class T>
DEVICE void gate_rows(const Sums<T>& x, T* y, int activation, int second_is_activated, int width) {
    constexpr int V = VECTOR<T>;
    const size_t row = blockIdx.x;
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
    const int of_a = second_is_activated ? width : 0, of_b = width - of_a;
#pragma unroll 1 // one iteration for 16-bit values; f32 does not need eight copies of all activations
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float a[V], b[V];
        load<V>(a, x, row, 2 * width, of_a + column);
        load<V>(b, x, row, 2 * width, of_b + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            a[j] = activate(activation, a[j]) * b[j];
        store<V>(y + row * width + column, a);
    }
}

// Scales and bias may be null, as in `Sums`.
#define ACTIVATION(T)                                                                                             \
    KERNEL(1024)                                                                                                  \
    activate_##T(const T* x, const float* of_rows, const float* of_columns, const float* bias, T* y,             \
                 int activation, int width) {                                                                     \
        activate_rows<T>({x, of_rows, of_columns, bias}, y, activation, width);                                   \
    }                                                                                                             \
    KERNEL(1024)                                                                                                  \
    gate_##T(const T* x, const float* of_rows, const float* of_columns, const float* bias, T* y, int activation, \
             int second_is_activated, int width) {                                                                \
        gate_rows<T>({x, of_rows, of_columns, bias}, y, activation, second_is_activated, width);                  \
    }

using f32 = float;
ACTIVATION(f32)
ACTIVATION(f16)
ACTIVATION(bf16)
