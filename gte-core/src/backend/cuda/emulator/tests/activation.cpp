// `activation.cu`: every activation, with and without a gate and a bias.
#include "../../kernels/activation.cu"
#include "testing.hpp"

// The error bound in the comment of `activate`.
constexpr double MAX_ERROR = 6e-7;

template <class T> void test(auto plain, auto gated, std::vector<int> widths) {
    for (int width : widths)
        for (int activation = 0; activation <= RELU; activation++)
            for (int choice = 0; choice < 4; choice++) {
                const bool biased = choice % 2, second = choice / 2;
                const size_t rows = 3, inner = 2 * width;
                auto x = numbers<T>(rows * inner, width + choice, -6, 6);
                const float special[] = {0.0f, -0.0f, 100, -100, 1e4f, -1e4f, 4.2426f * 1.3333f, 1e-6f, -90, 88};
                for (size_t i = 0; i < x.size(); i += 3)
                    x[i] = number<T>(i % 2 ? special[i / 3 % 10] : to_float(x[i]));
                const auto bias = numbers<float>(inner, 5);
                const float* b = biased ? bias.data() : nullptr;
                const auto value = [&](size_t at, int column) { return (double)(to_float(x[at]) + (biased ? bias[column] : 0.0f)); };
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
                    launch(geometry(inner, count), plain, &x[first * inner], b, y.data(), activation, (int)inner);
                    return y;
                };
                auto y = in_every_order<T>(name, [&] { return run(0, rows); });
                if (!same(run(2, 1), std::vector<T>(y.begin() + 2 * inner, y.end())))
                    wrong(name, "a row alone is not what it is in a batch");
                std::vector<double> expected, scale;
                for (size_t i = 0; i < rows * inner; i++)
                    expected.push_back(reference_activation(activation, value(i, i % inner)));
                compare(name, which, y, expected, [&](size_t i) {
                    return MAX_ERROR * std::max(1.0, std::abs(value(i, i % inner))) + UNIT<T> * std::abs(expected[i]) + TINY<T>;
                });
                auto in_place = x;
                launch(geometry(inner, rows), plain, in_place.data(), b, in_place.data(), activation, (int)inner);
                if (!same(in_place, y))
                    wrong(name, "other values in place");

                name = std::string("gate_") + NAME<T>;
                const auto run_gate = [&](size_t first, size_t count) {
                    auto y = unwritten<T>(count * width);
                    launch(geometry(width, count), gated, &x[first * inner], b, y.data(), activation, (int)second, width);
                    return y;
                };
                y = in_every_order<T>(name, [&] { return run_gate(0, rows); });
                if (!same(run_gate(2, 1), std::vector<T>(y.begin() + 2 * width, y.end())))
                    wrong(name, "a row alone is not what it is in a batch");
                expected.clear();
                for (size_t i = 0; i < rows * width; i++) {
                    const size_t row = i / width, column = i % width, a = second ? width + column : column, g = inner / 2 - (second ? width : 0) + column;
                    const double active = value(row * inner + a, a), other = value(row * inner + g, g);
                    expected.push_back(reference_activation(activation, active) * other);
                    scale.push_back(std::max(1.0, std::abs(active)) * std::abs(other));
                }
                compare(name, which, y, expected, [&](size_t i) {
                    // 1e4 · 1e4 exceeds f16.
                    return std::abs(expected[i]) > 65504 && sizeof(T) == 2 ? INFINITY : (MAX_ERROR + 0x1p-23) * scale[i] + UNIT<T> * std::abs(expected[i]) + TINY<T>;
                });
            }
}

int main() {
    test<float>(activate_f32, gate_f32, {1, 37, 96, 384, 1100});
    test<f16>(activate_f16, gate_f16, {8, 96, 384, 1096});
    test<bf16>(activate_bf16, gate_bf16, {8, 96, 384, 1096});
    return report();
}
