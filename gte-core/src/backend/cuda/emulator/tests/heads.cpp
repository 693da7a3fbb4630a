// `heads.cu`: every activation and residual; vectors of unit length, one of zeros among them.
#include "../../kernels/heads.cu"
#include "testing.hpp"

int main() {
    for (auto [inputs, outputs] : {std::pair{1, 1}, {37, 1}, {96, 96}, {384, 5}, {1024, 17}})
        for (int activation = 0; activation <= SIGMOID; activation++)
            for (int residual = 0; residual < 3; residual++) {
                const bool add = residual == 1 && inputs == outputs;
                const int rows = 5;
                const auto x = numbers<float>(rows * inputs, 1), bias = numbers<float>(outputs, 2);
                const float spread = 2 / std::sqrt((float)inputs);
                const auto weight = numbers<float>(inputs * outputs, 3, -spread, spread), more = numbers<float>(inputs * outputs, 4, -spread, spread);
                const float *b = activation % 2 ? bias.data() : nullptr, *projection = residual == 2 ? more.data() : nullptr;
                const auto run = [&](size_t first, int count) {
                    auto y = unwritten<float>(count * outputs);
                    launch({(unsigned)(count * outputs + 7) / 8, 256}, dense, &x[first * inputs], weight.data(), b, projection, y.data(),
                           (int)add, activation, count, inputs, outputs);
                    return y;
                };
                const auto y = in_every_order<float>("dense", [&] { return run(0, rows); });
                if (std::memcmp(run(3, 1).data(), &y[3 * outputs], outputs * 4) != 0)
                    wrong("dense", "a row alone is not what it is in a batch");
                std::vector<double> expected;
                for (int i = 0; i < rows * outputs; i++) {
                    const int row = i / outputs, output = i % outputs;
                    double sum = b ? b[output] : 0, other = add ? x[row * inputs + output] : 0;
                    for (int k = 0; k < inputs; k++) {
                        sum += (double)x[row * inputs + k] * weight[output * inputs + k];
                        other += projection ? (double)x[row * inputs + k] * more[output * inputs + k] : 0;
                    }
                    expected.push_back(reference_activation(activation, sum) + other);
                }
                compare("dense", std::to_string(inputs) + " x " + std::to_string(outputs) + ", activation " + std::to_string(activation), y,
                        expected, [&](size_t i) { return 4e-6 * std::max(1.0, std::abs(expected[i])); });
            }
    for (int width : {1, 37, 96, 384, 1000, 4096}) {
        auto x = numbers<float>(4 * width, width);
        std::fill_n(x.begin() + width, width, 0.0f);
        const auto y = in_every_order<float>("normalize", [&] {
            auto y = x;
            launch({4, 256}, normalize, y.data(), width);
            return y;
        });
        std::vector<float> alone(x.begin() + 3 * width, x.end());
        launch({1, 256}, normalize, alone.data(), width);
        if (std::memcmp(alone.data(), &y[3 * width], width * 4) != 0)
            wrong("normalize", "a row alone is not what it is in a batch");
        std::vector<double> expected(y.size());
        for (int row = 0; row < 4; row++) {
            double squares = 0;
            for (int i = 0; i < width; i++)
                squares += (double)x[row * width + i] * x[row * width + i];
            for (int i = 0; i < width; i++)
                expected[row * width + i] = x[row * width + i] / std::max(std::sqrt(squares), 1e-12);
        }
        compare("normalize", "width " + std::to_string(width), y, expected, [&](size_t i) { return 4e-7 * std::abs(expected[i]) + 1e-37; });
    }
    return report();
}
