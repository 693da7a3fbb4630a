// `fp8.cu`: every number of e4m3 with its neighbors, and rows with their scales.
#include "../../kernels/fp8.cu"
#include "testing.hpp"

/// The value of a number, by the definition of the format.
static double value(uint32_t code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    const double size = (code & 0x7f) == 0x7f ? NAN
                        : exponent == 0       ? std::ldexp(fraction, -9)
                                              : std::ldexp(8 + fraction, exponent - 10);
    return code & 0x80 ? -size : size;
}

static void expect(float x, uint32_t code) {
    records["to_e4m3"].cases++;
    if (to_e4m3(x) != code)
        wrong("to_e4m3", std::to_string(x) + " becomes " + std::to_string(to_e4m3(x)) + ", expected " + std::to_string(code));
}

static void test_numbers() {
    for (uint32_t code = 0; code <= 0x7e; code++)
        for (uint32_t sign : {0, 0x80}) {
            const float x = (float)value(code | sign), middle = (float)((value(code) + value(code + 1)) / 2);
            expect(x, code | sign);
            if (code == 0x7e)
                continue;
            const auto signed_ = [&](float size) { return sign ? -size : size; };
            expect(signed_(middle), (code + code % 2) | sign); // exact in f32; the even one
            expect(signed_(std::nextafter(middle, 0.0f)), code | sign);
            expect(signed_(std::nextafter(middle, 1e9f)), (code + 1) | sign);
        }
    // All numbers of bf16: none is nearer.
    for (uint32_t bits = 0; bits < 1 << 16; bits++) {
        const float x = to_float(bf16{(uint16_t)bits});
        const double found = value(to_e4m3(x)), size = std::abs((double)x);
        if (std::isnan(x) ? !std::isnan(found) : size > 448 ? std::abs(found) != 448 : std::signbit(found) != std::signbit(x))
            wrong("to_e4m3", std::to_string(x) + " becomes " + std::to_string(found));
        const double step = std::ldexp(1, std::max(size == 0 ? -9 : std::ilogb(size), -6) - 3);
        if (size <= 448 && std::abs(found - x) > step / 2)
            wrong("to_e4m3", std::to_string(x) + " becomes " + std::to_string(found));
    }
}

static void test_rows(int width) {
    const size_t rows = 5;
    auto x = numbers<bf16>(rows * width, width);
    for (int i = 0; i < width; i++) {
        x[width + i] = number<bf16>(0);
        x[2 * width + i] = number<bf16>(to_float(x[2 * width + i]) * (i % 7 == 3 ? 1e30f : 1e28f));
        x[3 * width + i] = number<bf16>(to_float(x[3 * width + i]) * 1e-34f); // below the smallest scale
    }
    x[4 * width + width / 2] = number<bf16>(NAN);
    const auto run = [&](size_t first, size_t count) {
        auto scales = unwritten<float>(count);
        auto codes = unwritten<uint8_t>(count * width);
        launch({(unsigned)count, 128}, quantize_fp8, &x[first * width], codes.data(), scales.data(), width);
        std::vector<uint8_t> both(4 * count + codes.size());
        std::memcpy(both.data(), scales.data(), 4 * count);
        std::memcpy(both.data() + 4 * count, codes.data(), codes.size());
        return both;
    };
    const auto both = in_every_order<uint8_t>("quantize_fp8", [&] { return run(0, rows); });
    const float* scales = (const float*)both.data();
    const uint8_t* codes = both.data() + 4 * rows;
    std::vector<float> found;
    std::vector<double> expected, bounds;
    for (size_t row = 0; row < rows; row++) {
        const auto alone = run(row, 1);
        if (std::memcmp(alone.data(), scales + row, 4) != 0 || std::memcmp(alone.data() + 4, codes + row * width, width) != 0)
            wrong("quantize_fp8", "a row alone is not what it is in a batch");
        for (int i = 0; i < width; i++) {
            const double v = to_float(x[row * width + i]), read = value(codes[row * width + i]);
            if (std::isnan(v) != std::isnan(read))
                wrong("quantize_fp8", "a NaN is not where it was");
            if (std::isnan(v))
                continue;
            found.push_back((float)(read * scales[row]));
            expected.push_back(v);
            // Three bits of fraction; near 0 the steps are 2^-9 of the scale.
            bounds.push_back(std::max(0x1p-4 * std::abs(v), 0x1p-10 * scales[row]) * (1 + 0x1p-20) + 0x1p-149);
        }
    }
    compare("quantize_fp8", "width " + std::to_string(width), found, expected, [&](size_t i) { return bounds[i]; });
}

int main() {
    test_numbers();
    for (int width : {16, 32, 48, 144, 1024, 1040, 4096})
        test_rows(width);
    return report();
}
