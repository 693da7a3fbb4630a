// Twins of the functions in `kernels/instructions.cuh`, and the other parts of CUDA that the
// kernels use. Where a GPU may have an error, the twin has one of about the same size, so that
// bounds that hold here can hold there.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>

#include "threads.hpp"

#define __device__
#define __shared__ static thread_local
#define __forceinline__ inline
#define DEVICE static inline
#define KERNEL(...) extern "C" void
#define DYNAMIC_SHARED(name) uint4* const name = (uint4*)emulator::Block::here().shared.get()
#define BF16_TENSOR_CORES 1

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

using std::max;
using std::min;

inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) { return std::bit_cast<float>((uint32_t)x.bits << 16); }

inline float to_float(f16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    if (exponent == 0) { // 0 and subnormal: fraction · 2^-24, exact
        const float size = (float)fraction * 0x1p-24f;
        return sign ? -size : size;
    }
    if (exponent == 31)
        return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

template <class T> uint32_t rounded(float x);

template <> inline uint32_t rounded<bf16>(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if (std::isnan(x))
        return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <> inline uint32_t rounded<f16>(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return 0x7fff;
    if (size >= 0x477ff000) // 65,520, halfway to the number that would follow the largest one
        return sign | 0x7c00;
    if (size < 0x38800000) // below 2^-14: the addition rounds to the last place of subnormal numbers
        return sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000);
    const uint32_t shifted = size - 0x38000000; // the exponent's bias from 127 to 15
    return sign | (shifted + 0xfff + (shifted >> 13 & 1)) >> 13;
}

template <class T> uint32_t pack(float low, float high) { return rounded<T>(high) << 16 | rounded<T>(low); }

namespace emulator {
/// x with a relative error of either +`error` or -`error`, which depends only on x.
inline float approximate(float x, float error) {
    const uint32_t hash = std::bit_cast<uint32_t>(x) * 2654435761u;
    return x * (1.0f + (hash >> 31 ? error : -error));
}
} // namespace emulator

inline float exp2_approx(float x) {
    return x == 0.0f ? 1.0f : emulator::approximate(std::exp2(x), 0x1p-22f);
}

// A GPU divides wrongly by numbers beyond 2^126, and here the quotient is a NaN.
inline float divide_approx(float a, float b) {
    return std::abs(b) > 0x1p126f ? NAN : emulator::approximate(a / b, 0x1p-22f);
}

namespace emulator {
struct Shuffled {
    float value, result;
    int from;
};
inline float shuffled(const char* what, float x, int from) {
    Shuffled own{x, 0, from};
    Block::here().together(what, &own, [](void** lanes) {
        for (int i = 0; i < 32; i++) {
            auto& lane = *(Shuffled*)lanes[i];
            lane.result = ((Shuffled*)lanes[lane.from % 32])->value;
        }
    });
    return own.result;
}
} // namespace emulator

inline float shuffle_xor(float x, int mask) {
    return emulator::shuffled("shuffle_xor", x, (threadIdx.x % 32) ^ mask);
}

inline float shuffle(float x, int lane) { return emulator::shuffled("shuffle", x, lane); }

/// The copy happens as late as possible, in `copy_wait`, so that a read before it finds the old
/// content.
inline void copy_async(uint4* shared, const void* global, bool valid) {
    emulator::Block::here().fiber().copies.emplace_back(shared, valid ? global : nullptr);
}

inline void copy_wait() {
    for (auto [to, from] : emulator::Block::here().fiber().copies)
        *(uint4*)to = from ? *(const uint4*)from : uint4{0, 0, 0, 0};
    emulator::Block::here().fiber().copies.clear();
}

namespace emulator {
struct Matrices {
    uint32_t* results;
    const uint4* row;
};
/// Value `column` of the eight in a row.
inline uint32_t value(const uint4* row, int column) {
    uint16_t values[8];
    std::memcpy(values, row, 16);
    return values[column];
}
inline void load(const char* what, uint32_t (&r)[4], const uint4* row, bool transposed) {
    Matrices own{r, row};
    const auto compute = [transposed](void** lanes) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++) {
                uint32_t pair[2];
                for (int i = 0; i < 2; i++) {
                    const int across = lane / 4, along = lane % 4 * 2 + i;
                    const int row = transposed ? along : across, column = transposed ? across : along;
                    pair[i] = value(((Matrices*)lanes[8 * matrix + row])->row, column);
                }
                ((Matrices*)lanes[lane])->results[matrix] = pair[1] << 16 | pair[0];
            }
    };
    Block::here().together(what, &own, compute);
}
} // namespace emulator

inline void load_matrices(uint32_t (&r)[4], const uint4* row) { emulator::load("load_matrices", r, row, false); }
inline void load_transposed(uint32_t (&r)[4], const uint4* row) { emulator::load("load_transposed", r, row, true); }

namespace emulator {
struct Product {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
};

/// The sum of exact products and c, rounded towards zero as tensor cores do.
inline float truncated(double sum) {
    const float nearest = (float)sum;
    return std::abs((double)nearest) > std::abs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Most of a test's time is spent here, on arrays of fixed size and on the lanes' own operands, so
// sanitizers are off and optimization is on.
template <class T>
__attribute__((optimize("O3"), no_sanitize("address", "undefined"))) void multiply(void** lanes) {
    double a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const auto& own = *(Product*)lanes[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 2; i++) {
            for (int word = 0; word < 4; word++)
                a[g + word % 2 * 8][2 * t + i + word / 2 * 8] = to_float(T{(uint16_t)(own.a[word] >> 16 * i)});
            for (int word = 0; word < 2; word++)
                b[2 * t + i + word * 8][g] = to_float(T{(uint16_t)(own.b[word] >> 16 * i)});
        }
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][2 * t + i % 2] = own.c[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            ((Product*)lanes[lane])->c[i] = truncated(c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}
} // namespace emulator

template <class T> void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::Product own{c, a, {b0, b1}};
    emulator::Block::here().together("multiply_add", &own, emulator::multiply<T>);
}
