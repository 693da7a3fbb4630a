// `pooling.cu`: texts of many lengths, in which some or all tokens do not count.
#include "../../kernels/pooling.cu"
#include "testing.hpp"

int main() {
    const std::vector<uint32_t> lengths{1, 2, 7, 8, 9, 15, 16, 17, 300, 1, 64};
    std::vector<uint32_t> starts{0}, unpooled;
    for (size_t i = 0; i < lengths.size(); i++) {
        starts.push_back(starts.back() + lengths[i]);
        unpooled.push_back(i % 3 == 0 ? 0 : i % 3 == 1 ? lengths[i] - 1 : std::min(lengths[i], 5u));
    }
    unpooled[5] = 15; // none of its tokens would count, so all of them do
    const unsigned texts = lengths.size();
    for (int width : {1, 37, 96, 128, 384, 1000})
        for (int choice = 0; choice < 6; choice++) {
            const int pooling = choice % 3;
            const uint32_t* out = choice / 3 ? unpooled.data() : nullptr;
            const auto x = numbers<float>(starts.back() * width, width);
            const auto y = in_every_order<float>("pool", [&] {
                auto y = unwritten<float>(texts * width);
                launch({{texts, (unsigned)(width + 127) / 128}, 256}, pool, x.data(), starts.data(), out, y.data(), pooling, width);
                return y;
            });
            std::vector<double> expected(y.size()), scale(y.size());
            for (unsigned text = 0; text < texts; text++) {
                uint32_t first = starts[text], end = starts[text + 1];
                if (out && out[text] < end - first)
                    first += out[text];
                // A copy of the text alone.
                const std::vector<float> own(&x[starts[text] * width], &x[starts[text] * width] + lengths[text] * width);
                const std::vector<uint32_t> ends{0, lengths[text]};
                auto alone = unwritten<float>(width);
                launch({{1, (unsigned)(width + 127) / 128}, 256}, pool, own.data(), ends.data(), out ? out + text : nullptr,
                       alone.data(), pooling, width);
                if (std::memcmp(alone.data(), &y[text * width], width * 4) != 0)
                    wrong("pool", "a text alone is not what it is in a batch");
                if (pooling == FIRST_TOKEN)
                    end = first + 1;
                else if (pooling == LAST_TOKEN)
                    first = end - 1;
                for (int c = 0; c < width; c++)
                    for (uint32_t t = first; t < end; t++)
                        expected[text * width + c] += (double)x[t * width + c] / (end - first);
            }
            compare("pool", "width " + std::to_string(width) + ", choice " + std::to_string(choice), y, expected,
                    [&](size_t) { return pooling == MEAN ? 5e-7 : 0x1p-24 * 2; });
            if (pooling == MEAN)
                continue;
            // The same bits as words.
            const std::vector<uint32_t> rows((const uint32_t*)x.data(), (const uint32_t*)x.data() + x.size());
            const auto picked = in_every_order<uint32_t>("pick", [&] {
                auto picked = unwritten<uint32_t>(texts * width);
                launch({texts, 128}, pick, rows.data(), starts.data(), out, picked.data(), pooling, width);
                return picked;
            });
            records["pick"].cases++;
            if (std::memcmp(picked.data(), y.data(), 4 * picked.size()) != 0)
                wrong("pick", "not the rows that pooling takes");
        }
    return report();
}
