// norm(word + (position + type)) of every token.
//
// A block computes one token, whose row it holds in registers. Launch as `norm.cu`.
#include "norm.cuh"

/// The number type of the table of words, which is that of the checkpoint.
enum Stored { IN_F32, IN_F16, IN_BF16 };

template <int V> DEVICE void load_stored(float* v, const void* table, int stored, size_t at) {
    if (stored == IN_F32)
        load<V>(v, (const float*)table + at);
    else if (stored == IN_F16)
        load<V>(v, (const f16*)table + at);
    else
        load<V>(v, (const bf16*)table + at);
}

/// `positions` has each token's row of the table `of_positions`, and `types` that of `of_types`
/// (null: all tokens have type 0). Tables that are null are not added. The host checks all indices.
/// `stream` becomes the row in f32, and `operand` the row in the type of products; either may be
/// null.
template <class T>
DEVICE void embed(const uint32_t* ids, const uint32_t* positions, const uint8_t* types, const void* words,
                  int stored, const float* of_positions, const float* of_types, const float* gamma,
                  const float* beta, float eps, int norm, float* stream, T* operand, int width) {
    constexpr int V = VECTOR<T>;
    const size_t token = blockIdx.x;
    const int thread = threadIdx.x, threads = blockDim.x;
    const size_t type = types ? types[token] : 0;
    float v[HELD] = {};
#pragma unroll
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        float added[V] = {}, more[V] = {};
        if (of_positions)
            load<V>(added, of_positions + (size_t)positions[token] * width + column);
        if (of_types)
            load<V>(more, of_types + type * width + column);
        load_stored<V>(v + i, words, stored, (size_t)ids[token] * width + column);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[i + j] += added[j] + more[j];
    }
    norm_row<V>(v, norm, gamma, beta, eps, width);
#pragma unroll
    for (int i = 0; i < HELD; i += V) {
        const int column = column_of<V>(thread, threads, i);
        if (column >= width)
            continue;
        if (stream)
            store<V>(stream + token * width + column, v + i);
        if (operand)
            store<V>(operand + token * width + column, v + i);
    }
}

#define EMBED(T)                                                                                                  \
    KERNEL(1024)                                                                                                  \
    embed_##T(const uint32_t* ids, const uint32_t* positions, const uint8_t* types, const void* words,           \
              int stored, const float* of_positions, const float* of_types, const float* gamma,                  \
              const float* beta, float eps, int norm, float* stream, T* operand, int width) {                    \
        embed(ids, positions, types, words, stored, of_positions, of_types, gamma, beta, eps, norm, stream,      \
              operand, width);                                                                                    \
    }

using f32 = float;
EMBED(f32)
EMBED(f16)
EMBED(bf16)
