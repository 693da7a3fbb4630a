// `attention.cu`: three sizes of heads in f16 and bf16.
#include "../../kernels/attention.cu"
#include "attention.hpp"

template <class T, int D> void test_kernel(auto kernel, bool all) {
    const Run<T> run = [kernel](const auto& qkv, const auto& before, const auto& lengths, Shape shape, Masked masked) {
        const auto tiles = tiles_of(lengths, QUERIES);
        const int tokens = qkv.size() / shape.stride(), before_tokens = before.size() / shape.stride();
        auto out = unwritten<T>((size_t)tokens * shape.heads * D);
        launch({(unsigned)(tiles.size() * shape.heads), 128, (128 + 2 * KEYS_OF<D>)*D * 2}, kernel, qkv.data(),
               before_tokens ? before.data() : nullptr, tiles.data(), out.data(), shape.heads, shape.kv_heads, before_tokens, masked.mask,
               masked.reach, (float)(M_LOG2E / std::sqrt(D)));
        return out;
    };
    const std::string name = std::string("attention_") + NAME<T> + "_" + std::to_string(D);
    if (all)
        test_all<T>(name, run, D, {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300});
    else
        test_some<T>(name, run, D);
}

// All cases for each size, and for each number type: the two types of a size share their code.
int main() {
    test_kernel<f16, 32>(attention_f16_32, true);
    test_kernel<f16, 64>(attention_f16_64, false);
    test_kernel<f16, 128>(attention_f16_128, true);
    test_kernel<bf16, 32>(attention_bf16_32, false);
    test_kernel<bf16, 64>(attention_bf16_64, true);
    test_kernel<bf16, 128>(attention_bf16_128, false);
    return report();
}
