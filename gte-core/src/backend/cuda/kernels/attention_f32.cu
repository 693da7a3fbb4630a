// Attention as in `attention.cu`, but in f32 without tensor cores, for heads of any size up to 256.
// Models in f32 use it, and the fast kernels are compared with it. It reaches a few TFLOP/s.
//
// A block has 16 queries of one head of one text, and each of its four warps has four. It reads the
// keys in blocks of 32, one per lane. For the weighted sum of values, a lane has the columns lane,
// lane + 32, ...
//
// Launch with (tiles · heads) blocks of 128 threads and (16·d + 32·(d + 1) + 32·d) · 4 bytes of
// shared memory.
#include "mask.cuh"

constexpr int QUERIES = 16, KEYS = 32, WARPS = 4, ROWS = QUERIES / WARPS, COLUMNS = 256 / 32;

KERNEL(128)
attention_f32(const float* qkv, const float* before, const Tile* tiles, float* out, int heads, int kv_heads,
              int before_tokens, int mask, int reach, float scale, int d) {
    DYNAMIC_SHARED(shared);
    const Tile tile = tiles[blockIdx.x / heads];
    if (tile.first_query >= tile.tokens)
        return;
    const int head = blockIdx.x % heads, kv_head = head / (heads / kv_heads);
    const size_t stride = (size_t)(heads + 2 * kv_heads) * d;
    const float* own = qkv + tile.start * stride;
    const int of_keys = (heads + kv_head) * d, of_values = of_keys + kv_heads * d;
    const float* prefix = before ? before : own;
    const Source<float> keys{prefix + of_keys, own + of_keys, before_tokens, stride};
    const Source<float> values{prefix + of_values, own + of_values, before_tokens, stride};
    float *const q = (float*)shared, *const k = q + QUERIES * d, *const v = k + KEYS * (d + 1);

    const int thread = threadIdx.x, lane = thread % 32, row0 = thread / 32 * ROWS;
    const int count = before_tokens + tile.tokens, first_position = before_tokens + tile.first_query;
    const Keys all = seen(mask, reach, first_position, min(first_position + QUERIES, count) - 1, count);
    for (int i = thread; i < QUERIES * d; i += 32 * WARPS) {
        const int query = tile.first_query + i / d;
        q[i] = query < tile.tokens ? own[query * stride + head * d + i % d] : 0.0f;
    }
    float sums[ROWS][COLUMNS] = {}, limits[ROWS], totals[ROWS] = {};
    for (int r = 0; r < ROWS; r++)
        limits[r] = -INFINITY;

    for (int first = all.first / KEYS * KEYS; first < all.end; first += KEYS) {
        __syncthreads(); // every warp is done with the previous block
        for (int i = thread; i < KEYS * d; i += 32 * WARPS) {
            const int key = first + i / d, column = i % d;
            k[i / d * (d + 1) + column] = key < count ? row_of(keys, key)[column] : 0.0f;
            v[i] = key < count ? row_of(values, key)[column] : 0.0f;
        }
        __syncthreads();
        float weights[ROWS] = {};
        for (int column = 0; column < d; column++)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                weights[r] = fmaf(q[(row0 + r) * d + column], k[lane * (d + 1) + column], weights[r]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int position = first_position + row0 + r, key = first + lane;
            const Keys visible = seen(mask, reach, position, position, count);
            const float score = key >= visible.first && key < visible.end ? weights[r] * scale : -INFINITY;
            float raised = score;
            for (int m = 16; m > 0; m /= 2)
                raised = fmaxf(raised, shuffle_xor(raised, m));
            raised = fmaxf(raised, limits[r]);
            const float base = raised == -INFINITY ? 0.0f : raised; // nothing seen so far
            const float factor = exp2_approx(limits[r] - base);
            limits[r] = raised;
            weights[r] = exp2_approx(score - base);
            totals[r] = totals[r] * factor + warp_sum(weights[r]);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                sums[r][c] *= factor;
        }
        for (int key = 0; key < KEYS; key++)
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float weight = shuffle(weights[r], key);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    if (32 * c + lane < d)
                        sums[r][c] = fmaf(weight, v[key * d + 32 * c + lane], sums[r][c]);
            }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int query = tile.first_query + row0 + r;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (query < tile.tokens && 32 * c + lane < d)
                out[((size_t)(tile.start + query) * heads + head) * d + 32 * c + lane] = sums[r][c] / totals[r];
    }
}
