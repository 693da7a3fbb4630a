// `rope.cu`: heads of several sizes and groups, with and without norms and positions. Values must
// not change.
#include "../../kernels/rope.cu"
#include "testing.hpp"

template <class T> void test(auto kernel, std::vector<int> sizes) {
    const std::string name = std::string("rope_") + NAME<T>;
    for (int size : sizes)
        for (auto [heads, kv_heads] : {std::pair{1, 1}, {4, 2}, {8, 2}, {3, 3}, {4, 1}})
            for (int choice = 0; choice < 4; choice++) {
                const bool normed = choice % 2, turned = choice != 1;
                const int first = choice == 3 ? 11 : 0, half = size / 2, rows = 64;
                const size_t tokens = choice == 2 ? 33 : 5, stride = (heads + 2 * kv_heads) * size;
                const auto qkv = numbers<T>(tokens * stride, size + heads);
                const auto of_q = numbers<float>(size, 1, 0.5f, 1.5f), of_k = numbers<float>(size, 2, 0.5f, 1.5f);
                std::vector<float> cos(rows * half), sin(rows * half);
                for (int i = 0; i < rows * half; i++) {
                    const double angle = i / half * std::pow(10000.0, -2.0 * (i % half) / size);
                    cos[i] = std::cos(angle), sin[i] = std::sin(angle);
                }
                std::vector<uint32_t> positions(tokens);
                for (size_t i = 0; i < tokens; i++)
                    positions[i] = i * 5 % 50;
                const auto run = [&](size_t from, size_t count) {
                    std::vector<T> y(&qkv[from * stride], &qkv[from * stride] + count * stride);
                    const size_t lanes = sizeof(T) == 4 ? 32 : size / 16, all = count * (heads + kv_heads) * lanes;
                    launch({(unsigned)((all + 127) / 128), 128}, kernel, y.data(), &positions[from], first,
                           turned ? cos.data() : nullptr, turned ? sin.data() : nullptr, normed ? of_q.data() : nullptr,
                           normed ? of_k.data() : nullptr, 1e-6f, (int)count, heads, kv_heads, size);
                    return y;
                };
                const auto y = in_every_order<T>(name, [&] { return run(0, tokens); });
                const size_t token = tokens - 1;
                if (!same(run(token, 1), std::vector<T>(y.begin() + token * stride, y.end())))
                    wrong(name, "a token alone is not what it is in a batch");
                std::vector<double> expected(y.size()), scale(y.size());
                for (size_t t = 0; t < tokens; t++)
                    for (int head = 0; head < heads + 2 * kv_heads; head++) {
                        const size_t at = t * stride + head * size;
                        double* row = &expected[at];
                        for (int i = 0; i < size; i++)
                            row[i] = to_float(qkv[at + i]);
                        if (head >= heads + kv_heads)
                            continue;
                        if (normed)
                            reference_norm(row, size, 2, head < heads ? of_q.data() : of_k.data(), nullptr, 1e-6f);
                        for (int i = 0; i < half; i++) {
                            const double a = row[i], b = row[half + i];
                            scale[at + i] = scale[at + half + i] = std::abs(a) + std::abs(b);
                            if (!turned)
                                continue;
                            const size_t angle = (first + positions[t]) * half + i;
                            row[i] = a * cos[angle] - b * sin[angle], row[half + i] = b * cos[angle] + a * sin[angle];
                        }
                    }
                compare(name, "size " + std::to_string(size) + ", heads " + std::to_string(heads) + ", choice " + std::to_string(choice),
                        y, expected, [&](size_t i) { return 5e-7 * scale[i] + UNIT<T> * std::abs(expected[i]) + TINY<T>; });
            }
}

int main() {
    test<float>(rope_f32, {2, 6, 32, 40, 64, 128, 256});
    test<f16>(rope_f16, {16, 32, 64, 128, 256});
    test<bf16>(rope_bf16, {16, 32, 64, 128, 256});
    return report();
}
