// softmax(Q·Kᵀ / √d)·V within each text, on tensor cores: 16-bit operands, sums in f32. Texts lie
// end to end.
//
// A block has 128 queries of one head of one text, and each of its four warps has 32. It reads the
// keys in blocks of 64 or 32, with a running maximum (Milakov, Gimelshein 2018,
// https://arxiv.org/abs/1805.02867), so that scores never leave the registers (Dao et al. 2022,
// https://arxiv.org/abs/2205.14135). While a warp multiplies Q·Kᵀ, the values are copied to shared
// memory, and while it multiplies by V, the next keys are.
//
// A warp has 32 queries rather than 16, so that it uses what it reads of K and V in shared memory
// for two products. With 16, shared memory would be slower than the tensor cores.
//
// The result of a query depends only on itself and on the keys that it sees, block by block from
// the text's first key. A block in which it sees no key changes nothing. The result is therefore
// the same bit for bit alone and in any batch.
//
// Launch with (tiles · heads) blocks of 128 threads and (128 + 2 · KEYS_OF<d>) · d · 2 bytes of
// shared memory: 16, 32 and 48 KiB for d = 32, 64, 128. sm_75 has no tensor cores for bf16: its PTX
// does not contain those kernels.
#include "mask.cuh"

constexpr int QUERIES = 128, WARPS = 4, ROWS = QUERIES / WARPS;

/// With 64 keys per block, heads of 128 do not fit into the registers: sm_80 and sm_90 spilled 80
/// bytes.
template <int D> constexpr int KEYS_OF = D <= 64 ? 64 : 32;

/// The index of chunk `chunk` (eight values) of row `row` in a tile of rows of D values. Eight rows
/// of one chunk, which `load_matrices` reads at once, are in eight different groups of banks.
template <int D> DEVICE int place(int row, int chunk) {
    constexpr int CHUNKS = D / 8, IN_LINE = CHUNKS < 8 ? 8 / CHUNKS : 1; // rows per 128 bytes
    constexpr int MASK = CHUNKS < 8 ? CHUNKS - 1 : 7;
    return row * CHUNKS + (chunk ^ (row / IN_LINE & MASK));
}

/// Begins to copy N rows of `source`, from row `first`, to `tile`. Rows at or beyond `end` are
/// zeros.
template <class T, int D, int N> DEVICE void copy_rows(uint4* tile, const Source<T>& source, int first, int end) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < N * CHUNKS / (32 * WARPS); i++) {
        const int number = i * 32 * WARPS + threadIdx.x, row = number / CHUNKS, chunk = number % CHUNKS;
        const bool valid = first + row < end;
        const T* from = row_of(source, valid ? first + row : end - 1);
        copy_async(tile + place<D>(row, chunk), from + 8 * chunk, valid);
    }
}

template <class T, int D>
DEVICE void attend(const T* qkv, const T* before, const Tile* tiles, T* out, int heads, int kv_heads,
                   int before_tokens, int mask, int reach, float scale) {
    constexpr int KEYS = KEYS_OF<D>, STEPS = D / 16, COLUMNS = D / 8, BLOCKS = KEYS / 8, TALL = ROWS / 16;
    // Wide heads leave no registers for all queries, which are then read again for each block of
    // keys.
    constexpr bool KEEPS_QUERIES = D <= 64;
    DYNAMIC_SHARED(shared);
    const Tile tile = tiles[blockIdx.x / heads];
    if (tile.first_query >= tile.tokens)
        return;
    const int head = blockIdx.x % heads, kv_head = head / (heads / kv_heads);
    const size_t stride = (size_t)(heads + 2 * kv_heads) * D;
    const T* own = qkv + tile.start * stride;
    const int of_keys = (heads + kv_head) * D, of_values = of_keys + kv_heads * D;
    const Source<T> queries{own, own + head * D, 0, stride};
    const T* prefix = before ? before : own;
    const Source<T> keys{prefix + of_keys, own + of_keys, before_tokens, stride};
    const Source<T> values{prefix + of_values, own + of_values, before_tokens, stride};
    uint4 *const q_tile = shared, *const k_tile = q_tile + QUERIES * D / 8, *const v_tile = k_tile + KEYS * D / 8;

    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * ROWS;
    // The positions of the queries, and the keys that this block and this warp see.
    const int count = before_tokens + tile.tokens, first_position = before_tokens + tile.first_query;
    const Keys all = seen(mask, reach, first_position, min(first_position + QUERIES, count) - 1, count);
    const int warp_first = first_position + row0, warp_last = min(warp_first + ROWS, count) - 1;
    const Keys some = seen(mask, reach, warp_first, warp_last, count);
    const int end = (all.end + KEYS - 1) / KEYS;
    int block = all.first / KEYS;

    float sums[TALL][COLUMNS][4] = {};                 // of weights times values
    float limits[TALL][2], totals[TALL][2] = {};       // largest score, scaled, and the sum of this lane's weights
    uint32_t q[KEEPS_QUERIES ? STEPS : 1][TALL][4];
    for (int i = 0; i < 2 * TALL; i++)
        limits[i / 2][i % 2] = -INFINITY;

    const auto load_queries = [&](uint32_t (&q)[TALL][4], int step) {
#pragma unroll
        for (int i = 0; i < TALL; i++)
            load_matrices(q[i], q_tile + place<D>(row0 + 16 * i + lane % 16, 2 * step + lane / 16));
    };

    copy_rows<T, D, QUERIES>(q_tile, queries, tile.first_query, tile.tokens);
    copy_rows<T, D, KEYS>(k_tile, keys, block * KEYS, count);
    for (bool first = true; block < end; block++, first = false) {
        copy_wait();
        __syncthreads(); // the keys are here, and every warp has read the last values
        copy_rows<T, D, KEYS>(v_tile, values, block * KEYS, count);
        if constexpr (KEEPS_QUERIES)
            if (first)
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    load_queries(q[step], step);

        const bool active = warp_first < count && block * KEYS < some.end && (block + 1) * KEYS > some.first;
        float scores[TALL][BLOCKS][4] = {};
        if (active) {
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                if constexpr (!KEEPS_QUERIES)
                    load_queries(q[0], step);
#pragma unroll
                for (int pair = 0; pair < BLOCKS / 2; pair++) {
                    uint32_t k[4];
                    load_matrices(k, k_tile + place<D>(16 * pair + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
#pragma unroll
                    for (int i = 0; i < TALL; i++) {
                        multiply_add<T>(scores[i][2 * pair], q[KEEPS_QUERIES ? step : 0][i], k[0], k[1]);
                        multiply_add<T>(scores[i][2 * pair + 1], q[KEEPS_QUERIES ? step : 0][i], k[2], k[3]);
                    }
                }
            }
            // Masks the keys that a query does not see. If the first and the last query of the warp
            // see the whole block, so do all others.
            const Keys of_first = seen(mask, reach, warp_first, warp_first, count);
            const Keys of_last = seen(mask, reach, warp_last, warp_last, count);
            if (max(of_first.first, of_last.first) > block * KEYS || min(of_first.end, of_last.end) < (block + 1) * KEYS)
#pragma unroll
                for (int i = 0; i < TALL * 2; i++) {
                    const int position = warp_first + 16 * (i / 2) + lane / 4 + 8 * (i % 2);
                    const Keys visible = seen(mask, reach, position, position, count);
#pragma unroll
                    for (int j = 0; j < BLOCKS * 2; j++) {
                        const int key = block * KEYS + 8 * (j / 2) + 2 * (lane % 4) + j % 2;
                        if (key < visible.first || key >= visible.end)
                            scores[i / 2][j / 2][2 * (i % 2) + j % 2] = -INFINITY;
                    }
                }
            // Scores become weights, and the previous sums are rescaled to the new maximum.
#pragma unroll
            for (int i = 0; i < TALL * 2; i++) {
                float(&row)[BLOCKS][4] = scores[i / 2];
                const int half = 2 * (i % 2);
                float largest = -INFINITY;
#pragma unroll
                for (int j = 0; j < BLOCKS; j++)
                    largest = fmaxf(largest, fmaxf(row[j][half], row[j][half + 1]));
                largest = fmaxf(largest, shuffle_xor(largest, 1));
                largest = fmaxf(largest, shuffle_xor(largest, 2));
                float& limit = limits[i / 2][i % 2];
                const float raised = fmaxf(limit, largest * scale);
                const float base = raised == -INFINITY ? 0.0f : raised; // nothing seen so far
                const float factor = exp2_approx(limit - base);
                limit = raised;
                float total = totals[i / 2][i % 2] * factor;
#pragma unroll
                for (int j = 0; j < BLOCKS; j++)
#pragma unroll
                    for (int k = half; k < half + 2; k++) {
                        row[j][k] = exp2_approx(fmaf(row[j][k], scale, -base));
                        total += row[j][k];
                    }
                totals[i / 2][i % 2] = total;
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    sums[i / 2][j][half] *= factor;
                    sums[i / 2][j][half + 1] *= factor;
                }
            }
        }
        copy_wait();
        __syncthreads(); // the values are here, and every warp has read the keys
        if (block + 1 < end)
            copy_rows<T, D, KEYS>(k_tile, keys, (block + 1) * KEYS, count);
        if (active) {
#pragma unroll
            for (int step = 0; step < KEYS / 16; step++) {
                uint32_t weights[TALL][4];
#pragma unroll
                for (int i = 0; i < TALL; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float(&pair)[4] = scores[i][2 * step + j / 2];
                        weights[i][j] = pack<T>(pair[2 * (j % 2)], pair[2 * (j % 2) + 1]);
                    }
#pragma unroll
                for (int pair = 0; pair < COLUMNS / 2; pair++) {
                    uint32_t v[4];
                    load_transposed(v, v_tile + place<D>(16 * step + lane % 16, 2 * pair + lane / 16));
#pragma unroll
                    for (int i = 0; i < TALL; i++) {
                        multiply_add<T>(sums[i][2 * pair], weights[i], v[0], v[1]);
                        multiply_add<T>(sums[i][2 * pair + 1], weights[i], v[2], v[3]);
                    }
                }
            }
        }
    }

    // The rows pass through the warp's own queries in shared memory, so that whole rows are written
    // at once.
    uint32_t* const words = (uint32_t*)q_tile;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TALL * 2; i++) {
        float total = totals[i / 2][i % 2];
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        const float factor = 1.0f / total;
        const int row = row0 + 16 * (i / 2) + lane / 4 + 8 * (i % 2);
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const float* pair = sums[i / 2][j] + 2 * (i % 2);
            words[4 * place<D>(row, j) + lane % 4] = pack<T>(pair[0] * factor, pair[1] * factor);
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < ROWS * COLUMNS / 32; i++) {
        const int number = 32 * i + lane, row = row0 + number / COLUMNS, chunk = number % COLUMNS;
        const int query = tile.first_query + row;
        if (query < tile.tokens)
            *(uint4*)(out + ((size_t)(tile.start + query) * heads + head) * D + 8 * chunk) = q_tile[place<D>(row, chunk)];
    }
}

/// `qkv` is (tokens × (heads + 2·kv_heads)·d): queries, keys and values, with positions applied.
/// `before` has the same for the `before_tokens` tokens before each text (causal only), or is null.
/// `out` is (tokens × heads·d). `scale` is log₂(e) / √d.
#define ATTENTION(T, D)                                                                                           \
    KERNEL(128, 2) /* two blocks per multiprocessor: up to 255 registers */                                       \
    attention_##T##_##D(const T* qkv, const T* before, const Tile* tiles, T* out, int heads, int kv_heads,       \
                        int before_tokens, int mask, int reach, float scale) {                                    \
        attend<T, D>(qkv, before, tiles, out, heads, kv_heads, before_tokens, mask, reach, scale);                \
    }

ATTENTION(f16, 32)
ATTENTION(f16, 64)
ATTENTION(f16, 128)
#ifdef BF16_TENSOR_CORES
ATTENTION(bf16, 32)
ATTENTION(bf16, 64)
ATTENTION(bf16, 128)
#endif
