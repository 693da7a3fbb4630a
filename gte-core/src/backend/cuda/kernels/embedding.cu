// norm(word + (position + type)) of every token.
//
// One block per token, which holds its row in registers. Launch as `norm.cu`.
#include "norm.cuh"

/// How the table of words is stored: as the checkpoint has it.
enum Stored { IN_F32, IN_F16, IN_BF16 };

template <int V> DEVICE void load_stored(float* v, const void* table, int stored, size_t at) {
    if (stored == IN_F32)
        load<V>(v, (const float*)table + at);
    else if (stored == IN_F16)
        load<V>(v, (const f16*)table + at);
    else
        load<V>(v, (const bf16*)table + at);
}

/// `positions` has the row of the table `of_positions` that a token takes, `types` that of `of_types`
/// (null: all tokens are of type 0). A table that is null is left out. Indices are checked by the host.
/// `stream` becomes the row in f32, `operand` as a product reads it; either may be null.
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
