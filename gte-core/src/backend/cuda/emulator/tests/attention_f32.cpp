// `attention_f32.cu`: heads of any size.
#include "../../kernels/attention_f32.cu"
#include "attention.hpp"

int main() {
    const Run<float> run = [](const auto& qkv, const auto& before, const auto& lengths, Shape shape, Masked masked) {
        const auto tiles = tiles_of(lengths, QUERIES);
        const auto [heads, kv_heads, d] = shape;
        const int tokens = qkv.size() / shape.stride(), before_tokens = before.size() / shape.stride();
        auto out = unwritten<float>((size_t)tokens * heads * d);
        launch({(unsigned)(tiles.size() * heads), 128, (16 * d + 32 * (d + 1) + 32 * d) * sizeof(float)}, attention_f32, qkv.data(),
               before_tokens ? before.data() : nullptr, tiles.data(), out.data(), heads, kv_heads, before_tokens, masked.mask, masked.reach,
               (float)(M_LOG2E / std::sqrt(d)), d);
        return out;
    };
    for (int d : {6, 32, 64, 128, 256})
        if (d == 32)
            test_all<float>("attention_f32", run, d, {1, 2, 15, 16, 17, 31, 32, 33, 65});
        else
            for (auto [mask, reach] : {std::pair{FULL, 0}, {CAUSAL, 0}, {WINDOW, 9}})
                test<float>("attention_f32", run, {1, 17, 40}, {2, 1, d}, {mask, reach});
    return report();
}
