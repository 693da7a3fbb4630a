// Norms of heads, and rotary positions of queries and keys, in place.
//
// A few neighboring lanes hold a head. Each has the same columns of its first and its second half,
// because these are rotated together. Launch with ⌈tokens · (heads + kv_heads) · lanes / 128⌉
// blocks of 128 threads, where lanes is 32 for f32 (heads of any even size up to 256) and size / 16
// for 16-bit values (16, 32, 64, 128, 256).
#include "numbers.cuh"

/// `qkv` is (tokens × (heads + 2·kv_heads)·size): queries, keys and values. `cos` and `sin` are
/// (positions × size / 2); token i is at position `first` + positions[i]. Null: no rotation.
/// `of_queries` and `of_keys` (size) are the scales of the heads' RMS norms; null: no norm.
template <class T>
DEVICE void turn(T* qkv, const uint32_t* positions, int first, const float* cos, const float* sin,
                 const float* of_queries, const float* of_keys, float eps, int tokens, int heads, int kv_heads,
                 int size) {
    constexpr int V = VECTOR<T>, PAIRS = V == 1 ? 4 : 8;
    const int lanes = V == 1 ? 32 : size / 16, half = size / 2;
    const size_t thread = (size_t)blockIdx.x * blockDim.x + threadIdx.x, number = thread / lanes;
    const int lane = thread % lanes, turned = heads + kv_heads;
    const size_t token = number / turned;
    const int head = number % turned;
    const bool there = token < (size_t)tokens; // other lanes stay for the shuffles
    T* row = qkv + token * (turned + kv_heads) * size + (size_t)head * size;
    float a[PAIRS] = {}, b[PAIRS] = {};
#pragma unroll
    for (int i = 0; i < PAIRS; i += V) {
        const int pair = column_of<V>(lane, lanes, i);
        if (there && pair < half) {
            load<V>(a + i, row + pair);
            load<V>(b + i, row + half + pair);
        }
    }
    if (of_queries) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            squares += a[i] * a[i] + b[i] * b[i];
        for (int mask = lanes / 2; mask > 0; mask /= 2)
            squares += shuffle_xor(squares, mask);
        const float scale = 1.0f / sqrtf(squares / (float)size + eps);
        const float* gamma = head < heads ? of_queries : of_keys;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const int pair = column_of<V>(lane, lanes, i);
            if (pair < half) {
                a[i] = a[i] * scale * gamma[pair];
                b[i] = b[i] * scale * gamma[half + pair];
            }
        }
    }
    if (!there)
        return;
    const size_t angles = cos ? (first + (size_t)positions[token]) * half : 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i += V) {
        const int pair = column_of<V>(lane, lanes, i);
        if (pair >= half)
            continue;
        if (cos) {
            float c[V], s[V];
            load<V>(c, cos + angles + pair);
            load<V>(s, sin + angles + pair);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float x = a[i + j], y = b[i + j];
                a[i + j] = x * c[j] - y * s[j];
                b[i + j] = y * c[j] + x * s[j];
            }
        }
        store<V>(row + pair, a + i);
        store<V>(row + half + pair, b + i);
    }
}

#define ROPE(T)                                                                                                   \
    KERNEL(128)                                                                                                   \
    rope_##T(T* qkv, const uint32_t* positions, int first, const float* cos, const float* sin,                   \
             const float* of_queries, const float* of_keys, float eps, int tokens, int heads, int kv_heads,       \
             int size) {                                                                                          \
        turn(qkv, positions, first, cos, sin, of_queries, of_keys, eps, tokens, heads, kv_heads, size);           \
    }

using f32 = float;
ROPE(f32)
ROPE(f16)
ROPE(bf16)
