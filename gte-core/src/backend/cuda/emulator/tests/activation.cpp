// `activation.cu`: every activation, with and without a gate and a bias.
#include "../../kernels/activation.cu"
#include "testing.hpp"

// The error bound in the comment of `activate`.
constexpr double MAX_ERROR = 6e-7;

// The error of a value passes an activation at most this much enlarged: the largest slope, GELU's.
constexpr double SLOPE = 1.13;

template <class T> void test(auto plain, auto gated, std::vector<int> widths) {
    for (int width : widths)
        for (int activation = 0; activation <= RELU; activation++)
            for (int choice = 0; choice < 8; choice++) {
                const bool biased = choice % 2, second = choice / 2 % 2, scaled = choice / 4;
                const size_t rows = 3, inner = 2 * width;
                auto x = numbers<T>(rows * inner, width + choice, -6, 6);
                const float special[] = {0.0f, -0.0f, 100, -100, 1e4f, -1e4f, 4.2426f * 1.3333f, 1e-6f, -90, 88};
                for (size_t i = 0; i < x.size(); i += 3)
                    x[i] = number<T>(i % 2 ? special[i / 3 % 10] : to_float(x[i]));
                const Left left(rows, inner, scaled, biased);
                const auto value = [&](size_t i) { return left.value(to_float(x[i]), i / inner, i % inner); };
                const auto error = [&](size_t i) { return SLOPE * left.error(to_float(x[i]), i / inner, i % inner); };
                const std::string which =
                    "activation " + std::to_string(activation) + ", width " + std::to_string(width) + ", choice " + std::to_string(choice);
                const auto geometry = [&](int columns, unsigned count) {
                    const unsigned threads = std::min(128u, threads_of(columns));
                    return emulator::Launch{{count, (columns + threads * HELD - 1) / (threads * HELD)}, threads};
                };
                // Without a gate, on rows of twice the width: all of x.
                std::string name = std::string("activate_") + NAME<T>;
                const auto run = [&](size_t first, size_t count) {
                    auto y = unwritten<T>(count * inner);
                    launch(geometry(inner, count), plain, &x[first * inner], left.rows_from(first), left.columns(), left.biases(),
                           y.data(), activation, (int)inner);
                    return y;
                };
                auto y = in_every_order<T>(name, [&] { return run(0, rows); });
                if (!same(run(2, 1), std::vector<T>(y.begin() + 2 * inner, y.end())))
                    wrong(name, "a row alone is not what it is in a batch");
                std::vector<double> expected, bounds;
                for (size_t i = 0; i < rows * inner; i++) {
                    expected.push_back(reference_activation(activation, value(i)));
                    bounds.push_back(MAX_ERROR * std::max(1.0, std::abs(value(i))) + error(i) + UNIT<T> * std::abs(expected[i]) + TINY<T>);
                }
                compare(name, which, y, expected, [&](size_t i) { return bounds[i]; });
                auto in_place = x;
                launch(geometry(inner, rows), plain, in_place.data(), left.rows_from(0), left.columns(), left.biases(),
                       in_place.data(), activation, (int)inner);
                if (!same(in_place, y))
                    wrong(name, "other values in place");

                name = std::string("gate_") + NAME<T>;
                const auto run_gate = [&](size_t first, size_t count) {
                    auto y = unwritten<T>(count * width);
                    launch(geometry(width, count), gated, &x[first * inner], left.rows_from(first), left.columns(), left.biases(),
                           y.data(), activation, (int)second, width);
                    return y;
                };
                y = in_every_order<T>(name, [&] { return run_gate(0, rows); });
                if (!same(run_gate(2, 1), std::vector<T>(y.begin() + 2 * width, y.end())))
                    wrong(name, "a row alone is not what it is in a batch");
                expected.clear(), bounds.clear();
                for (size_t i = 0; i < rows * width; i++) {
                    const size_t half = i / width * inner + i % width, a = half + (second ? width : 0), b = half + (second ? 0 : width);
                    const double active = reference_activation(activation, value(a)), other = value(b);
                    expected.push_back(active * other);
                    // 1e4 · 1e4 exceeds f16.
                    bounds.push_back(std::abs(expected[i]) > 65504 && sizeof(T) == 2
                                         ? INFINITY
                                         : (MAX_ERROR + 0x1p-23) * std::max(1.0, std::abs(value(a))) * std::abs(other) +
                                               error(a) * std::abs(other) + error(b) * std::abs(active) +
                                               UNIT<T> * std::abs(expected[i]) + TINY<T>);
                }
                compare(name, which, y, expected, [&](size_t i) { return bounds[i]; });
            }
}

int main() {
    test<float>(activate_f32, gate_f32, {1, 37, 96, 384, 1100});
    test<f16>(activate_f16, gate_f16, {8, 96, 384, 1096});
    test<bf16>(activate_bf16, gate_bf16, {8, 96, 384, 1096});
    return report();
}
