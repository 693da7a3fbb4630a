// The 16-bit number types, on which all other tests rely: every value, ties and their neighbors,
// numbers out of range, NaNs.
#include "testing.hpp"

/// The number of type T nearest to x, the even one of two, by its definition: a fraction of `bits`
/// bits, exponents of at least `least`, and infinity at or above `limit`.
template <class T> double nearest(double x) {
    const bool half = std::is_same_v<T, f16>;
    const int bits = half ? 10 : 7, least = half ? -14 : -126;
    const double limit = half ? 65520.0 : 0x1.ffp127;
    if (x == 0 || std::isnan(x) || std::isinf(x))
        return x;
    if (std::abs(x) >= limit)
        return std::copysign(INFINITY, x);
    const double place = std::ldexp(1.0, std::max(std::ilogb(x), least) - bits);
    return std::nearbyint(x / place) * place;
}

template <class T> void test() {
    const std::string name = NAME<T>;
    for (int i = 0; i < 65536; i++) {
        const T number{(uint16_t)i};
        const float wide = to_float(number);
        const uint32_t again = rounded<T>(wide);
        const bool nan = (i & 0x7fff) > (std::is_same_v<T, f16> ? 0x7c00 : 0x7f80);
        if (nan != std::isnan(wide) || (nan ? !std::isnan(to_float(T{(uint16_t)again})) : (int)again != i))
            wrong(name, "value " + std::to_string(i) + " changes in two conversions");
        // Its value by the format's definition.
        const int bits = std::is_same_v<T, f16> ? 10 : 7, bias = std::is_same_v<T, f16> ? 15 : 127;
        const int exponent = (i & 0x7fff) >> bits, fraction = i & ((1 << bits) - 1);
        double value = exponent ? std::ldexp((1 << bits) + fraction, exponent - bias - bits) : std::ldexp(fraction, 1 - bias - bits);
        value = exponent == 2 * bias + 1 ? INFINITY : value;
        if (!nan && (wide != (i >> 15 ? -value : value) || std::signbit(wide) != (i >> 15 != 0)))
            wrong(name, "value " + std::to_string(i));
    }
    records[name].cases++;
    Random random(1);
    for (size_t i = 0; i < 200000; i++) {
        const uint64_t bits = random.next() >> 8;
        // Any bits; a tie; a neighbor of a tie; a size that the type has.
        const float tie = std::bit_cast<float>(std::bit_cast<uint32_t>(to_float(T{(uint16_t)bits})) + (std::is_same_v<T, f16> ? 0x1000 : 0x8000));
        const float x = i % 4 == 0   ? std::bit_cast<float>((uint32_t)bits)
                        : i % 4 == 1 ? tie
                        : i % 4 == 2 ? std::nextafter(tie, bits % 2 ? 9e9f : 0.0f)
                                     : random.between(-70000, 70000);
        // Both halves of a pair.
        const uint32_t pair = i % 2 ? pack<T>(x, 1.0f) & 0xffff : pack<T>(1.0f, x) >> 16;
        const double expected = nearest<T>(x), found = to_float(T{(uint16_t)pair});
        if (std::isnan(expected) ? !std::isnan(found) : found != expected || std::signbit(found) != std::signbit(expected))
            wrong(name, std::to_string(x) + " becomes " + std::to_string(found) + ", expected " + std::to_string(expected));
    }
    records[name].cases++;
}

int main() {
    test<f16>();
    test<bf16>();
    return report();
}
