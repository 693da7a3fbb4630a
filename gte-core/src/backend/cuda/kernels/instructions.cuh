// The instructions of a GPU for which C++ has no expression. This is the only file with PTX in it;
// the emulator has a twin of each function (`emulator/instructions.hpp`).
//
// Number types are our own, two bytes each, because CUDA's would tie the kernels to its headers.
#pragma once
#include <stdint.h>

#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__
/// The shared memory whose size is an argument of the launch, in 16-byte words.
#define DYNAMIC_SHARED(name) extern __shared__ uint4 name[]

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

DEVICE float to_float(float x) { return x; }

DEVICE float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

DEVICE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

/// Two numbers in 16 bits each, rounded to the nearest even, `low` in the lower half.
template <class T> DEVICE uint32_t pack(float low, float high);

template <> uint32_t __device__ __forceinline__ pack<f16>(float low, float high) {
    uint16_t l, h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(l) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(high));
    return (uint32_t)h << 16 | l;
}

#if __CUDA_ARCH__ < 800
/// sm_75 has no instruction for it. Adds half of the last place, or a little less where that is a
/// tie and the last bit is even. A NaN stays one.
DEVICE uint32_t rounded_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return nan ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif

template <> uint32_t __device__ __forceinline__ pack<bf16>(float low, float high) {
#if __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return rounded_bf16(high) << 16 | rounded_bf16(low);
#endif
}

/// 2^x with a relative error of up to 2^-22; exact at 0, and 0 at -infinity.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// a / b within 2 units in the last place, for b up to 2^126.
DEVICE float divide_approx(float a, float b) { return __fdividef(a, b); }

/// The value of the lane whose number differs from this lane's in the bits `mask`.
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffff, x, mask); }

/// The value of lane `lane`.
DEVICE float shuffle(float x, int lane) { return __shfl_sync(0xffffffff, x, lane); }

/// Begins to copy 16 bytes to shared memory; zeros if not `valid`. They have arrived after
/// `copy_wait` and a barrier. sm_75 copies at once.
DEVICE void copy_async(uint4* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
#else
    *shared = valid ? *(const uint4*)global : uint4{0, 0, 0, 0};
#endif
}

/// Waits for all copies that this thread began.
DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// Four 8 × 8 matrices of 16-bit values. Lane 8i + r gives the address of row r of matrix i; r[i]
/// of each lane becomes its two values of matrix i: row lane / 4, columns 2 · (lane % 4) and the
/// next.
DEVICE void load_matrices(uint32_t (&r)[4], const uint4* row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/// As `load_matrices`, but with transposed matrices.
DEVICE void load_transposed(uint32_t (&r)[4], const uint4* row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/// c += a · b on the tensor cores of a warp: a is 16 × 16, b is 16 × 8, c is 16 × 8 in f32. With g
/// = lane / 4 and t = lane % 4, a lane holds
///   a[0], a[1]: rows g and g + 8, columns 2t and 2t + 1; a[2], a[3]: the same, columns 8 further;
///   b0, b1: column g, rows 2t and 2t + 1, and 8 further;
///   c[0], c[1]: row g, columns 2t and 2t + 1; c[2], c[3]: row g + 8.
template <class T> DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
void __device__ __forceinline__
multiply_add<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    // sm_75 has the product of half the depth only.
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#if __CUDA_ARCH__ >= 800
// sm_75 has no such product, so its PTX does not contain the kernels that need it.
#define BF16_TENSOR_CORES 1
template <>
void __device__ __forceinline__
multiply_add<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
