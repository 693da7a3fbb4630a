// From f32 to 16 bits, rounded to the nearest even, and back. A thread converts eight values: launch with
// ⌈n / 1,024⌉ blocks of 128 threads. Both pointers are aligned to 16 bytes; n is any number.
#include "numbers.cuh"

template <class From, class To> DEVICE void convert(const From* x, To* y, size_t n) {
    const size_t first = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * HELD;
    float v[HELD];
    if (first + HELD <= n) {
        load<HELD>(v, x + first);
        store<HELD>(y + first, v);
        return;
    }
    for (size_t i = first; i < n; i++) {
        load<1>(v, x + i);
        store<1>(y + i, v);
    }
}

#define CONVERT(T)                                                                                                \
    KERNEL(128) f32_to_##T(const float* x, T* y, uint64_t n) { convert(x, y, n); }                                \
    KERNEL(128) T##_to_f32(const T* x, float* y, uint64_t n) { convert(x, y, n); }

CONVERT(f16)
CONVERT(bf16)
