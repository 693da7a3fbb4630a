// One row per text: its first token, its last one, or the mean of its tokens.
#include "numbers.cuh"

/// The numbers are those of the host.
enum Pooling { FIRST_TOKEN, LAST_TOKEN, MEAN };

struct Tokens {
    size_t first, end;
};

/// The tokens of text `text` that count: all but the first `unpooled[text]`, or all if there are no
/// others. `starts` has the first token of each text and the end of the last text. `unpooled` may
/// be null.
DEVICE Tokens counted(const uint32_t* starts, const uint32_t* unpooled, int text) {
    const size_t first = starts[text], end = starts[text + 1];
    const size_t left_out = unpooled ? unpooled[text] : 0;
    return {left_out < end - first ? first + left_out : first, end};
}

constexpr int WARPS = 8, COLUMNS = 128;

/// x is the stream, (tokens × width); y is (texts × width). Launch with (texts, ⌈width / 128⌉)
/// blocks of 256 threads.
///
/// For a mean, warp w of a block sums the tokens w, w + 8, ... Then these sums are added in the
/// order of the warps, which does not depend on other texts.
KERNEL(256)
pool(const float* x, const uint32_t* starts, const uint32_t* unpooled, float* y, int pooling, int width) {
    __shared__ float sums[WARPS][COLUMNS];
    const Tokens text = counted(starts, unpooled, blockIdx.x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, from = blockIdx.y * COLUMNS;
    size_t first = text.first, end = text.end;
    if (pooling == FIRST_TOKEN)
        end = first + 1;
    else if (pooling == LAST_TOKEN)
        first = end - 1;
    float sum[COLUMNS / 32] = {};
    for (size_t token = first + warp; token < end; token += WARPS)
#pragma unroll
        for (int i = 0; i < COLUMNS / 32; i++) {
            const int column = from + 32 * i + lane;
            sum[i] += column < width ? x[token * width + column] : 0.0f;
        }
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++)
        sums[warp][32 * i + lane] = sum[i];
    __syncthreads();
    const int column = from + threadIdx.x;
    if (threadIdx.x >= COLUMNS || column >= width)
        return;
    float total = 0.0f;
    for (int w = 0; w < WARPS; w++)
        total += sums[w][threadIdx.x];
    y[(size_t)blockIdx.x * width + column] = total * (1.0f / (float)(end - first));
}

/// y = the row of the first or last token that counts of each text of x, an operand of `words`
/// 4-byte words per row. Launch with (texts) blocks of 128 threads.
KERNEL(128)
pick(const uint32_t* x, const uint32_t* starts, const uint32_t* unpooled, uint32_t* y, int pooling, int words) {
    const Tokens text = counted(starts, unpooled, blockIdx.x);
    const size_t token = pooling == LAST_TOKEN ? text.end - 1 : text.first;
    for (int word = threadIdx.x; word < words; word += blockDim.x)
        y[(size_t)blockIdx.x * words + word] = x[token * words + word];
}
