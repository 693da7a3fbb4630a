// `norm.cu`: every combination of inputs, outputs and norms, also with widths that do not fill a
// warp.
#include "../../kernels/norm.cu"
#include "testing.hpp"

template <class T> void test(auto kernel, std::vector<int> widths) {
    const std::string name = std::string("add_norm_") + NAME<T>;
    for (int width : widths)
        for (int choice = 0; choice < 48; choice++) {
            const int norm = choice % 3, inputs = choice / 3 % 3, outputs = choice / 9 % 2;
            const bool with_beta = choice / 18 % 2 == 0, in_place = choice % 4 == 1 && inputs != 1;
            const size_t rows = 3, n = rows * width;
            // A mean that is large beside the deviations.
            const float center = choice % 5 == 0 ? 50 : 0;
            const auto x = numbers<T>(n, width + choice, center - 2, center + 2);
            const Left left(rows, width, choice / 2 % 2, choice / 4 % 2);
            const auto residual = numbers<float>(n, width + choice + 1, center - 3, center + 3);
            const auto gamma = numbers<float>(width, 3, 0.5f, 1.5f), beta = numbers<float>(width, 4);
            const float eps = choice % 2 ? 1e-5f : 1e-12f;
            const float* shift = with_beta && norm == LAYER_NORM ? beta.data() : nullptr;
            const auto run = [&](size_t first, size_t count) {
                auto stream = in_place ? std::vector<float>(&residual[first * width], &residual[first * width] + count * width)
                                       : unwritten<float>(count * width);
                auto operand = unwritten<T>(count * width);
                launch({(unsigned)count, threads_of(width)}, kernel, inputs == 1 ? nullptr : &x[first * width],
                       left.rows_from(first), left.columns(), left.biases(),
                       inputs == 2 ? nullptr : in_place ? stream.data() : &residual[first * width], stream.data(),
                       operand.data(), gamma.data(), shift, eps, norm, outputs, width);
                auto both = std::vector<uint8_t>(stream.size() * 4 + operand.size() * sizeof(T));
                std::memcpy(both.data(), stream.data(), stream.size() * 4);
                std::memcpy(both.data() + stream.size() * 4, operand.data(), operand.size() * sizeof(T));
                return both;
            };
            const auto found = in_every_order<uint8_t>(name, [&] { return run(0, rows); });
            std::vector<float> stream(n);
            std::vector<T> operand(n);
            std::memcpy(stream.data(), found.data(), n * 4);
            std::memcpy((void*)operand.data(), found.data() + n * 4, n * sizeof(T));
            for (size_t row = 0; row < rows; row++) {
                const auto alone = run(row, 1);
                if (std::memcmp(alone.data(), &stream[row * width], width * 4) != 0 ||
                    std::memcmp(alone.data() + width * 4, &operand[row * width], width * sizeof(T)) != 0)
                    wrong(name, "a row alone is not what it is in a batch");
            }
            std::vector<double> sum(n), error(n), normed;
            for (size_t i = 0; i < n; i++) {
                const size_t row = i / width, column = i % width;
                sum[i] = (inputs == 1 ? 0.0 : left.value(to_float(x[i]), row, column)) + (inputs == 2 ? 0.0 : residual[i]);
                error[i] = (inputs == 1 ? 0.0 : left.error(to_float(x[i]), row, column)) + 0x1p-23 * std::abs(sum[i]);
            }
            normed = sum;
            for (size_t row = 0; row < rows; row++)
                reference_norm(&normed[row * width], width, norm, gamma.data(), shift, eps);
            // Rounding the sum to f32 affects a small deviation from a large mean: 2^-24 of a value
            // of 100 is up to 6e-6, and a row of a few values may deviate little.
            std::vector<double> rounding(rows);
            for (size_t row = 0; row < rows; row++) {
                double largest = 0, spread = 0, mean = 0;
                for (int c = 0; c < width; c++)
                    mean += norm == LAYER_NORM ? sum[row * width + c] / width : 0;
                for (int c = 0; c < width; c++) {
                    largest = std::max(largest, std::abs(sum[row * width + c]));
                    spread += (sum[row * width + c] - mean) * (sum[row * width + c] - mean) / width;
                }
                rounding[row] = 0x1p-22 * (1 + largest * (norm == NO_NORM ? 1 : 1.5 / std::sqrt(spread + eps)));
            }
            const auto bound = [&](double unit) {
                return [&, unit](size_t i) {
                    return (unit + 0x1p-21) * std::abs(normed[i]) + TINY<T> + rounding[i / width];
                };
            };
            const std::string which = "width " + std::to_string(width) + ", choice " + std::to_string(choice);
            compare(name, which + ", operand", operand, normed, bound(UNIT<T>));
            if (outputs)
                compare(name, which + ", stream", stream, normed, bound(0));
            else
                compare(name, which + ", stream", stream, sum, [&](size_t i) { return error[i] + 1e-30; });
        }
}

int main() {
    test<float>(add_norm_f32, {1, 7, 37, 96, 384, 1000, 4096, 8192});
    test<f16>(add_norm_f16, {8, 24, 96, 384, 768, 1000, 1024, 4096});
    test<bf16>(add_norm_bf16, {8, 24, 96, 384, 768, 1000, 1024, 4096, 8192});
    return report();
}
