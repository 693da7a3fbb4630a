// `dense.cu`: every activation and residual, rows of many widths, and unit vectors.
#include "../../kernels/dense.cu"
#include "testing.hpp"

static double reference(int activation, double x) {
    switch (activation) {
    case TANH:
        return std::tanh(x);
    case SIGMOID:
        return 1 / (1 + std::exp(-x));
    default:
        return reference_activation(activation, x);
    }
}

static void test_dense(int inputs, int outputs, int choice) {
    const size_t rows = 3;
    const int activation = choice % 7, residual = inputs == outputs ? choice % 3 : choice % 3 / 2 * 2;
    // Sums of about the same size for every width, some of them beyond the range of e^x.
    const float size = 2 / std::sqrt((float)inputs) * (choice % 5 == 0 ? 40 : 1);
    const auto x = numbers<float>(rows * inputs, choice), weight = numbers<float>(outputs * inputs, 1, -size, size);
    const auto projected = numbers<float>(outputs * inputs, 2, -size, size), bias = numbers<float>(outputs, 3);
    const bool biased = choice % 4 != 1;
    const auto run = [&](size_t first, size_t count) {
        auto y = unwritten<float>(count * outputs);
        launch({{(unsigned)count, (unsigned)(outputs + 7) / 8}, 32 * (unsigned)std::min(8, outputs)}, dense, &x[first * inputs],
               weight.data(), biased ? bias.data() : nullptr, residual == 2 ? projected.data() : nullptr, y.data(), activation,
               residual == 1, inputs, outputs);
        return y;
    };
    const auto found = in_every_order<float>("dense", [&] { return run(0, rows); });
    std::vector<double> expected(found.size()), bounds(found.size());
    for (size_t row = 0; row < rows; row++) {
        const auto alone = run(row, 1);
        if (std::memcmp(alone.data(), &found[row * outputs], 4 * outputs) != 0)
            wrong("dense", "a row alone is not what it is in a batch");
        for (int o = 0; o < outputs; o++) {
            double sum = biased ? bias[o] : 0, added = 0, terms = std::abs(sum), more = 0;
            for (int i = 0; i < inputs; i++) {
                const double a = x[row * inputs + i], w = weight[o * inputs + i], p = projected[o * inputs + i];
                sum += a * w, terms += std::abs(a * w);
                if (residual == 2)
                    added += a * p, more += std::abs(a * p);
            }
            if (residual == 1)
                added = more = x[row * inputs + o], more = std::abs(more);
            const size_t i = row * outputs + o;
            expected[i] = reference(activation, sum) + added;
            // A lane adds every 32nd product, then five sums of two: so many roundings.
            const double steps = inputs / 32 + 8;
            bounds[i] = steps * 0x1p-24 * (1.13 * terms + more) + 6e-7 * std::max(1.0, std::abs(sum)) + 0x1p-24 * std::abs(expected[i]);
        }
    }
    compare("dense", std::to_string(inputs) + " to " + std::to_string(outputs) + ", choice " + std::to_string(choice), found,
            expected, [&](size_t i) { return bounds[i]; });
}

static void test_unit(int width) {
    const size_t rows = 5;
    auto x = numbers<float>(rows * width, width);
    for (int i = 0; i < width; i++) {
        x[width + i] = 0;           // stays zero
        x[2 * width + i] *= 1e-16f; // shorter than the smallest length
        x[3 * width + i] *= 1e5f;
    }
    const auto run = [&](size_t first, size_t count) {
        std::vector<float> y(&x[first * width], &x[first * width] + count * width);
        launch({(unsigned)count, 128}, unit, y.data(), width);
        return y;
    };
    const auto found = in_every_order<float>("unit", [&] { return run(0, rows); });
    std::vector<double> expected(found.size());
    for (size_t row = 0; row < rows; row++) {
        const auto alone = run(row, 1);
        if (std::memcmp(alone.data(), &found[row * width], 4 * width) != 0)
            wrong("unit", "a row alone is not what it is in a batch");
        double squares = 0;
        for (int i = 0; i < width; i++)
            squares += (double)x[row * width + i] * x[row * width + i];
        for (int i = 0; i < width; i++)
            expected[row * width + i] = x[row * width + i] / std::max(std::sqrt(squares), 1e-12);
    }
    // Half of the error of the sum of squares, and the roundings of root, quotient and product.
    const double steps = (width / 128 + 9) / 2.0 + 3;
    compare("unit", "width " + std::to_string(width), found, expected,
            [&](size_t i) { return steps * 0x1p-24 * std::abs(expected[i]) + 0x1p-149; });
}

int main() {
    for (const auto& [inputs, outputs] : std::vector<std::pair<int, int>>{{1, 1}, {33, 1}, {1024, 1}, {31, 2}, {40, 40}, {96, 21}, {512, 64}})
        for (int choice = 0; choice < 21; choice++)
            test_dense(inputs, outputs, choice);
    for (int width : {1, 2, 37, 128, 129, 768, 1024})
        test_unit(width);
    return report();
}
