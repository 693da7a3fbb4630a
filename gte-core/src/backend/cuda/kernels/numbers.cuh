// What all kernels share: reading and writing eight values per thread, sums over a block,
// activations.
//
// Rows of 16-bit values are read in vectors of eight, so their width is a multiple of 8. Rows of
// f32 are read one value at a time, 32 neighbors per warp, and have any width.
#pragma once
#ifdef __CUDACC__
#include "instructions.cuh"
#else
#include "../emulator/instructions.hpp"
#endif

/// Values that a thread holds of a row.
constexpr int HELD = 8;

/// The number of adjacent values among them, in kernels whose operands are T.
template <class T> constexpr int VECTOR = sizeof(T) == 2 ? 8 : 1;

/// The column of a thread's value `i` of a row that `threads` threads hold, `thread` one of them.
template <int V> DEVICE int column_of(int thread, int threads, int i) {
    return (i / V * threads + thread) * V + i % V;
}

template <int V> DEVICE void load(float* v, const float* from) {
    if constexpr (V == 1) {
        v[0] = from[0];
    } else {
        const float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
}

template <int V, class T> DEVICE void load(float* v, const T* from) {
    if constexpr (V == 1) {
        v[0] = to_float(from[0]);
    } else {
        const uint4 words = *(const uint4*)from;
        const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = to_float(T{(uint16_t)(pairs[i] & 0xffff)});
            v[2 * i + 1] = to_float(T{(uint16_t)(pairs[i] >> 16)});
        }
    }
}

template <int V> DEVICE void store(float* to, const float* v) {
    if constexpr (V == 1) {
        to[0] = v[0];
    } else {
        *(float4*)to = float4{v[0], v[1], v[2], v[3]};
        *(float4*)(to + 4) = float4{v[4], v[5], v[6], v[7]};
    }
}

template <int V, class T> DEVICE void store(T* to, const float* v) {
    if constexpr (V == 1) {
        to[0] = T{(uint16_t)pack<T>(v[0], 0.0f)};
    } else {
        *(uint4*)to =
            uint4{pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]), pack<T>(v[6], v[7])};
    }
}

/// The sums of a product, (rows × width), and what is left to do with them: a scale per row and one
/// per column, and a bias per column. Each of the last three is null where nothing is left; scales
/// are of sums of e4m3 that cuBLASLt has not scaled, and both of them are null or neither.
template <class T> struct Sums {
    const T* values;
    const float* of_rows;
    const float* of_columns;
    const float* bias;
};

/// v = sum · (scale of its column) · (scale of its row) + bias for V columns of a row. A scale of
/// e4m3 is at least 2^-109, so a product of two could vanish where the result does not.
template <int V, class T> DEVICE void load(float* v, const Sums<T>& sums, size_t row, int width, int column) {
    load<V>(v, sums.values + row * width + column);
    if (sums.of_columns) {
        const float of_row = sums.of_rows[row];
        float s[V];
        load<V>(s, sums.of_columns + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = v[j] * s[j] * of_row;
    }
    if (sums.bias) {
        float b[V];
        load<V>(b, sums.bias + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] += b[j];
    }
}

/// The sum over a warp, the same bits in every lane.
DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2)
        x += shuffle_xor(x, mask);
    return x;
}

/// The sum over a block of up to 1,024 threads, always in the same order. `sums` is shared memory
/// for 32 values, which nothing else may use before the next barrier.
DEVICE float block_sum(float x, float* sums) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++)
        sum += sums[warp];
    return sum;
}

/// The numbers are those of the host.
enum Activation { IDENTITY, GELU, GELU_TANH, SILU, RELU, TANH, SIGMOID };

/// Error function within 5e-7: x · P(x²) / Q(x²) on -4 ≤ x ≤ 4 with the coefficients of Eigen and
/// XLA; beyond, ±1 up to the precision of f32. The same as in `kernels/activation.rs`.
DEVICE float erf_rational(float x) {
    x = fmaxf(fminf(x, 4.0f), -4.0f);
    const float x2 = x * x;
    float p = -2.7261423e-10f;
    p = fmaf(p, x2, 2.7706814e-8f);
    p = fmaf(p, x2, -2.1010241e-6f);
    p = fmaf(p, x2, -5.6925063e-5f);
    p = fmaf(p, x2, -7.3499065e-4f);
    p = fmaf(p, x2, -2.9546e-3f);
    p = fmaf(p, x2, -1.6096033e-2f);
    float q = -1.4566072e-5f;
    q = fmaf(q, x2, -2.1337405e-4f);
    q = fmaf(q, x2, -1.682827e-3f);
    q = fmaf(q, x2, -7.373329e-3f);
    q = fmaf(q, x2, -1.42647390e-2f);
    return divide_approx(x * p, q);
}

/// x / (1 + e^y). Beyond y = 87, where e^y would exceed f32, the quotient is almost 0.
DEVICE float divided(float x, float y) {
    return divide_approx(x, 1.0f + exp2_approx(fminf(y, 87.0f) * 1.44269504f));
}

/// Maximum error 6e-7 · max(1, |x|) against f64.
DEVICE float activate(int activation, float x) {
    switch (activation) {
    case GELU: {
        const float half = 0.5f * x;
        return fmaf(half, erf_rational(x * 0.70710678f), half);
    }
    case GELU_TANH: // (1 + tanh(u)) / 2 is sigmoid(2u); -2·√(2/π), and that times 0.044715
        return divided(x, x * fmaf(x * x, -0.07135482f, -1.5957692f));
    case SILU:
        return divided(x, -x);
    case RELU:
        return fmaxf(x, 0.0f);
    default:
        return x;
    }
}
