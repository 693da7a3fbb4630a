// `convert.cu`, and with it the number types that all other tests stand on: every 16-bit value, ties and their
// neighbours, numbers out of range, NaNs.
#include "../../kernels/convert.cu"
#include "testing.hpp"

/// The number of type T nearest to x, the even one of two, by its definition: fractions of `bits` bits, exponents from
/// `least`, and infinity from `limit` on.
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

template <class T> void test(auto to, auto from) {
    const std::string name = std::string("f32_to_") + NAME<T>, back = std::string(NAME<T>) + "_to_f32";
    std::vector<T> all(65536);
    for (int i = 0; i < 65536; i++)
        all[i] = T{(uint16_t)i};
    auto wide = unwritten<float>(65536);
    launch({64, 128}, from, all.data(), wide.data(), (uint64_t)65536);
    auto again = unwritten<T>(65536);
    launch({64, 128}, to, wide.data(), again.data(), (uint64_t)65536);
    for (int i = 0; i < 65536; i++) {
        const bool nan = (i & 0x7fff) > (std::is_same_v<T, f16> ? 0x7c00 : 0x7f80);
        if (nan != std::isnan(wide[i]) || (nan ? !std::isnan(to_float(again[i])) : again[i].bits != i))
            wrong(back, "value " + std::to_string(i) + " is not what it was after two conversions");
        // Its value by the format's definition.
        const int bits = std::is_same_v<T, f16> ? 10 : 7, bias = std::is_same_v<T, f16> ? 15 : 127;
        const int exponent = (i & 0x7fff) >> bits, fraction = i & ((1 << bits) - 1);
        double value = exponent ? std::ldexp((1 << bits) + fraction, exponent - bias - bits) : std::ldexp(fraction, 1 - bias - bits);
        value = exponent == 2 * bias + 1 ? INFINITY : value;
        if (!nan && (wide[i] != (i >> 15 ? -value : value) || std::signbit(wide[i]) != (i >> 15 != 0)))
            wrong(back, "value " + std::to_string(i));
    }
    records[back].cases++;
    Random random(1);
    for (size_t n : {1, 7, 8, 9, 1023, 1024, 1025, 100000}) {
        std::vector<float> x(n);
        for (size_t i = 0; i < n; i++) {
            const uint64_t bits = random.next() >> 8;
            // Any bits; a tie; next to a tie; a size that the type has.
            const float tie = std::bit_cast<float>(std::bit_cast<uint32_t>(to_float(T{(uint16_t)bits})) + (std::is_same_v<T, f16> ? 0x1000 : 0x8000));
            x[i] = i % 4 == 0 ? std::bit_cast<float>((uint32_t)bits) : i % 4 == 1 ? tie : i % 4 == 2 ? std::nextafter(tie, bits % 2 ? 9e9f : 0.0f) : random.between(-70000, 70000);
        }
        auto y = unwritten<T>(n);
        launch({(unsigned)((n + 1023) / 1024), 128}, to, x.data(), y.data(), (uint64_t)n);
        for (size_t i = 0; i < n; i++) {
            const double expected = nearest<T>(x[i]), found = to_float(y[i]);
            if (std::isnan(expected) ? !std::isnan(found) : found != expected || std::signbit(found) != std::signbit(expected))
                wrong(name, std::to_string(x[i]) + " becomes " + std::to_string(found) + ", expected " + std::to_string(expected));
        }
        auto z = unwritten<float>(n);
        launch({(unsigned)((n + 1023) / 1024), 128}, from, y.data(), z.data(), (uint64_t)n);
        for (size_t i = 0; i < n; i++)
            if (!std::isnan(z[i]) && z[i] != to_float(y[i]))
                wrong(back, "of " + std::to_string(n) + " values, value " + std::to_string(i));
        records[name].cases++, records[back].cases++;
    }
}

int main() {
    test<f16>(f32_to_f16, f16_to_f32);
    test<bf16>(f32_to_bf16, bf16_to_f32);
    return report();
}
