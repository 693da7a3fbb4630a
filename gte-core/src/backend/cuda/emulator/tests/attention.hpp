// The reference of attention, and the cases for both of its kernels.
#pragma once
#include "testing.hpp"

struct Shape {
    int heads, kv_heads, d;
    size_t stride() const { return (size_t)(heads + 2 * kv_heads) * d; }
};

struct Masked {
    int mask, reach;
};

inline bool sees(Masked m, int query, int key) {
    return m.mask == FULL || (m.mask == CAUSAL ? key <= query : std::abs(query - key) <= m.reach);
}

/// The blocks of `queries` queries of a batch's texts, in reverse order and with unused entries
/// between them.
inline std::vector<Tile> tiles_of(const std::vector<int>& lengths, int queries) {
    std::vector<Tile> tiles;
    int start = 0;
    for (int length : lengths) {
        for (int first = 0; first < length; first += queries)
            tiles.insert(tiles.begin(), Tile{start, length, first, 0});
        tiles.insert(tiles.begin(), Tile{0, 0, 0, 0});
        start += length;
    }
    return tiles;
}

/// Launches a kernel on a batch of texts of these lengths, after the rows `before`.
template <class T>
using Run = std::function<std::vector<T>(const std::vector<T>& qkv, const std::vector<T>& before, const std::vector<int>& lengths,
                                         Shape shape, Masked masked)>;

/// Compares the results with softmax in double precision, and each text with itself alone.
///
/// The bound has two parts: a weight and an output are rounded to T, and the error of a score, a
/// sum in f32 of d products with truncation at each step, changes its weight.
template <class T>
void test(const std::string& kernel, const Run<T>& run, const std::vector<int>& lengths, Shape shape, Masked masked, int before_tokens = 0,
          float spread = 2) {
    const auto [heads, kv_heads, d] = shape;
    const size_t stride = shape.stride();
    int tokens = 0;
    for (int length : lengths)
        tokens += length;
    const auto qkv = numbers<T>(tokens * stride, tokens + d + heads, -spread, spread);
    const auto before = numbers<T>(before_tokens * stride, 7, -spread, spread);
    const auto once = [&] { return run(qkv, before, lengths, shape, masked); };
    const auto found = lengths.size() > 6 ? once() : in_every_order<T>(kernel, once);
    const auto wide = [](const std::vector<T>& v) {
        std::vector<double> wide;
        for (T x : v)
            wide.push_back(to_float(x));
        return wide;
    };
    const auto in_double = wide(qkv), before_in_double = wide(before);
    std::vector<double> expected((size_t)tokens * heads * d), bounds(expected.size());
    size_t start = 0;
    for (int length : lengths) {
        for (int query = 0; query < length; query++)
            for (int head = 0; head < heads; head++) {
                const int kv = head / (heads / kv_heads), count = before_tokens + length;
                const auto row = [&](int key) {
                    return key < before_tokens ? &before_in_double[key * stride] : &in_double[(start + key - before_tokens) * stride];
                };
                std::vector<double> scores(count, -INFINITY);
                double largest = -INFINITY, total = 0, sizes = 0;
                for (int key = 0; key < count; key++) {
                    if (!sees(masked, before_tokens + query, key))
                        continue;
                    const double *q = row(before_tokens + query) + head * d, *k = row(key) + (heads + kv) * d;
                    double sum = 0, size = 0;
                    for (int i = 0; i < d; i++)
                        sum += q[i] * k[i], size += std::abs(q[i] * k[i]);
                    scores[key] = sum / std::sqrt(d), largest = std::max(largest, scores[key]);
                    sizes = std::max(sizes, size / std::sqrt(d));
                }
                for (double& score : scores)
                    total += score = std::exp(score - largest);
                double* out = &expected[((start + query) * heads + head) * d];
                std::vector<double> weighted(d);
                for (int key = 0; key < count; key++) {
                    const double *v = row(key) + (heads + kv_heads + kv) * d, weight = scores[key] / total;
                    for (int i = 0; weight > 0 && i < d; i++)
                        out[i] += weight * v[i], weighted[i] += weight * std::abs(v[i]);
                }
                for (int i = 0; i < d; i++)
                    bounds[out + i - expected.data()] =
                        UNIT<T> * std::abs(out[i]) + (UNIT<T> + 0x1p-21 + 0x1p-24 * (d / 8.0 + count / 8.0 + 8) + 2 * sizes * 0x1p-23 * (d / 16.0 + 4)) * weighted[i] + TINY<T>;
            }
        start += length;
    }
    const std::string which = "heads " + std::to_string(heads) + " over " + std::to_string(kv_heads) + " of " + std::to_string(d) + ", mask " +
                              std::to_string(masked.mask) + " reach " + std::to_string(masked.reach) + ", before " + std::to_string(before_tokens) +
                              ", text of " + std::to_string(lengths[0]);
    compare(kernel, which, found, expected, [&](size_t i) { return bounds[i]; });
    if (lengths.size() > 1) {
        size_t start = 0;
        for (int length : lengths) {
            const std::vector<T> own(&qkv[start * stride], &qkv[start * stride] + length * stride);
            const auto alone = run(own, before, {length}, shape, masked);
            if (std::memcmp(alone.data(), &found[start * heads * d], alone.size() * sizeof(T)) != 0)
                wrong(kernel, which + ": a text of " + std::to_string(length) + " tokens alone is not what it is in a batch");
            start += length;
        }
    }
    if (before_tokens > 0 && lengths.size() == 1) {
        // The same tokens as one text must give the same bits.
        auto both = before;
        both.insert(both.end(), qkv.begin(), qkv.end());
        const auto whole = run(both, {}, {before_tokens + tokens}, shape, masked);
        if (std::memcmp(&whole[(size_t)before_tokens * heads * d], found.data(), found.size() * sizeof(T)) != 0)
            wrong(kernel, which + ": a prefix changes the result");
    }
}

/// Tests all cases of a kernel for heads of `d` values. `all` are the lengths of a batch.
template <class T> void test_all(const std::string& kernel, const Run<T>& run, int d, const std::vector<int>& all) {
    const std::vector<int> some{65, 1, 17, 129};
    test<T>(kernel, run, all, {1, 1, d}, {FULL, 0});
    test<T>(kernel, run, all, {2, 1, d}, {CAUSAL, 0});
    test<T>(kernel, run, all, {1, 1, d}, {WINDOW, 64});
    for (auto [heads, kv_heads] : {std::pair{2, 2}, {4, 2}, {4, 1}})
        test<T>(kernel, run, some, {heads, kv_heads, d}, {heads == 2 ? FULL : CAUSAL, 0});
    for (int reach : {0, 1, 16, 31, 32, 33, 63, 65, 1 << 30})
        test<T>(kernel, run, {129}, {1, 1, d}, {WINDOW, reach});
    test<T>(kernel, run, {300}, {1, 1, d}, {WINDOW, 5});
    for (int before : {1, 64, 100})
        for (int length : {1, 129})
            test<T>(kernel, run, {length}, {2, 1, d}, {CAUSAL, 0}, before);
    test<T>(kernel, run, {3, 66}, {2, 1, d}, {CAUSAL, 0}, 33);
    // Scores in the hundreds: one key has all the weight, and the maximum changes from block to
    // block.
    test<T>(kernel, run, {200}, {1, 1, d}, {FULL, 0}, 0, 16);
    // Many texts of one token.
    test<T>(kernel, run, std::vector<int>(40, 1), {1, 1, d}, {FULL, 0});
}

/// Tests one case of each kind, for a kernel that differs from one of `test_all` only in its type.
template <class T> void test_some(const std::string& kernel, const Run<T>& run, int d) {
    test<T>(kernel, run, {65, 1, 130}, {2, 1, d}, {FULL, 0});
    test<T>(kernel, run, {129}, {1, 1, d}, {WINDOW, 33});
    test<T>(kernel, run, {3, 66}, {2, 1, d}, {CAUSAL, 0}, 33);
    test<T>(kernel, run, {200}, {1, 1, d}, {FULL, 0}, 0, 16);
}
