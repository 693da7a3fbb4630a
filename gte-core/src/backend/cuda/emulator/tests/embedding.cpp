// `embedding.cu`: words in three number types, with and without positions, types and norm.
#include "../../kernels/embedding.cu"
#include "testing.hpp"

template <class T, class W> void test(auto kernel, int stored, std::vector<int> widths) {
    const std::string name = std::string("embed_") + NAME<T>;
    for (int width : widths)
        for (int choice = 0; choice < 18; choice++) {
            const int norm = choice % 3, token_types = choice / 3 % 3;
            const bool with_positions = choice % 2 == 0, with_types = choice / 9 == 0;
            const size_t vocab = 50, rows = 20, tokens = 9;
            const auto words = numbers<W>(vocab * width, 1);
            const auto places = numbers<float>(rows * width, 2), kinds = numbers<float>(std::max(token_types, 1) * width, 3);
            const auto gamma = numbers<float>(width, 4, 0.5f, 1.5f), beta = numbers<float>(width, 5);
            std::vector<uint32_t> ids(tokens), positions(tokens);
            std::vector<uint8_t> types(tokens);
            for (size_t i = 0; i < tokens; i++)
                ids[i] = i == 0 ? vocab - 1 : i * 7 % vocab, positions[i] = i == 0 ? rows - 1 : i * 3 % rows,
                types[i] = i % std::max(token_types, 1);
            const auto run = [&](size_t first, size_t count) {
                auto stream = unwritten<float>(count * width);
                auto operand = unwritten<T>(count * width);
                launch({(unsigned)count, threads_of(width)}, kernel, &ids[first], with_positions ? &positions[first] : nullptr,
                       with_types ? &types[first] : nullptr, (const void*)words.data(), stored,
                       with_positions ? places.data() : nullptr, token_types ? kinds.data() : nullptr, gamma.data(),
                       norm == LAYER_NORM ? beta.data() : nullptr, 1e-5f, norm, stream.data(), operand.data(), width);
                for (T x : operand)
                    stream.push_back(to_float(x));
                return stream;
            };
            auto stream = in_every_order<float>(name, [&] { return run(0, tokens); });
            std::vector<T> operand;
            for (size_t i = tokens * width; i < stream.size(); i++)
                operand.push_back(number<T>(stream[i]));
            stream.resize(tokens * width);
            for (size_t token = 0; token < tokens; token++)
                if (std::memcmp(run(token, 1).data(), &stream[token * width], width * 4) != 0)
                    wrong(name, "a token alone is not what it is in a batch");
            std::vector<double> expected(tokens * width);
            for (size_t t = 0; t < tokens; t++) {
                for (int c = 0; c < width; c++)
                    expected[t * width + c] = to_float(words[ids[t] * width + c]) +
                                              (with_positions ? places[positions[t] * width + c] : 0.0) +
                                              (token_types ? kinds[(with_types ? types[t] : 0) * width + c] : 0.0);
                reference_norm(&expected[t * width], width, norm, gamma.data(), norm == LAYER_NORM ? beta.data() : nullptr, 1e-5f);
            }
            const std::string which = "width " + std::to_string(width) + ", choice " + std::to_string(choice);
            const double own = width < 8 ? 1e-4 : 5e-6; // rows of few values deviate little
            compare(name, which, stream, expected, [&](size_t i) { return own * std::max(1.0, std::abs(expected[i])); });
            compare(name, which, operand, expected,
                    [&](size_t i) { return (UNIT<T> + own) * std::max(0.001, std::abs(expected[i])) + own; });
        }
}

template <class T> void test_all(auto kernel, std::vector<int> widths) {
    test<T, float>(kernel, IN_F32, widths);
    test<T, f16>(kernel, IN_F16, widths);
    test<T, bf16>(kernel, IN_BF16, widths);
}

int main() {
    test_all<float>(embed_f32, {3, 37, 96, 384, 1024});
    test_all<f16>(embed_f16, {8, 96, 384, 1024});
    test_all<bf16>(embed_bf16, {8, 96, 384, 1024});
    return report();
}
