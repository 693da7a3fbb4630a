// Rows of products' operands in 8 bits: e4m3, with one scale per row.
#include "numbers.cuh"

constexpr float LARGEST = 448.0f;

/// The nearest number in e4m3, and of two the one whose last bit is 0. What exceeds the largest
/// number becomes that; NaN stays NaN. sm_89 and newer have an instruction for it, but its PTX
/// excludes older cards, and this kernel waits for memory.
DEVICE uint32_t to_e4m3(float x) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return sign | 0x7f;
    if (size >= 0x43e00000) // 448
        return sign | 0x7e;
    if (size < 0x3c800000) // below 2^-6: the last place of 2^14 in f32 is 2^-9, the smallest number
        return sign | (__float_as_uint(__uint_as_float(size) + 16384.0f) - 0x46800000);
    const uint32_t shifted = size - (120 << 23); // the exponent's bias from 127 to 7
    return sign | (shifted + 0x7ffff + (shifted >> 20 & 1)) >> 20;
}

/// The maximum over a block of up to 1,024 threads. `maxima` is shared memory for 32 values.
DEVICE float block_max(float x, float* maxima) {
    for (int mask = 16; mask > 0; mask /= 2)
        x = fmaxf(x, shuffle_xor(x, mask));
    if (threadIdx.x % 32 == 0)
        maxima[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = 0.0f;
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++)
        largest = fmaxf(largest, maxima[warp]);
    return largest;
}

/// x ≈ y · scale: the scale of a row is its largest absolute value divided by that of e4m3, so that
/// no other row has an influence. x and y are (rows × width), `scales` is (rows). The width is a
/// multiple of 8. Launch with (rows) blocks of 128 threads.
KERNEL(128) quantize_fp8(const bf16* x, uint8_t* y, float* scales, int width) {
    __shared__ float maxima[32];
    const size_t row = (size_t)blockIdx.x * width;
    float largest = 0x1p-100f; // of a row of zeros
    for (int column = 8 * threadIdx.x; column < width; column += 8 * blockDim.x) {
        float v[8];
        load<8>(v, x + row + column);
#pragma unroll
        for (int i = 0; i < 8; i++)
            largest = fmaxf(largest, fabsf(v[i]));
    }
    largest = block_max(largest, maxima);
    const float inverse = LARGEST / largest;
    // The row is read a second time, from the cache.
    for (int column = 8 * threadIdx.x; column < width; column += 8 * blockDim.x) {
        float v[8];
        load<8>(v, x + row + column);
        uint32_t words[2] = {};
#pragma unroll
        for (int i = 0; i < 8; i++)
            words[i / 4] |= to_e4m3(v[i] * inverse) << 8 * (i % 4);
        *(uint64_t*)(y + row + column) = (uint64_t)words[1] << 32 | words[0];
    }
    if (threadIdx.x == 0)
        scales[blockIdx.x] = largest / LARGEST;
}
