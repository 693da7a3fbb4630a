// What the tests of the kernels share: seeded values, a comparison with a reference in double
// precision and an error bound, and runs in several orders of the threads.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "../instructions.hpp"

using std::size_t;
using emulator::launch;

/// Half of a unit in the last place of 1: the relative error of rounding to T.
template <class T> constexpr double UNIT = sizeof(T) == 4 ? 0x1p-24 : std::is_same_v<T, f16> ? 0x1p-11 : 0x1p-8;
/// Half of the smallest number: the absolute error of rounding a number near 0.
template <class T> constexpr double TINY = std::is_same_v<T, f16> ? 0x1p-25 : 0x1p-133;
template <class T> constexpr const char* NAME = sizeof(T) == 4 ? "f32" : std::is_same_v<T, f16> ? "f16" : "bf16";

template <class T> T number(float x) {
    if constexpr (sizeof(T) == 4)
        return x;
    else
        return T{(uint16_t)rounded<T>(x)};
}

struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15 + 1) {}
    uint64_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return state * 0x2545f4914f6cdd1d;
    }
    float between(float low, float high) { return low + (high - low) * (float)(next() >> 40) * 0x1p-24f; }
};

/// n numbers between low and high, in memory of exactly this size, so that a sanitizer knows its
/// end.
template <class T> std::vector<T> numbers(size_t n, uint64_t seed, float low = -2, float high = 2) {
    Random random(seed);
    std::vector<T> v(n);
    for (T& x : v)
        x = number<T>(random.between(low, high));
    return v;
}

/// Unwritten memory: NaNs.
template <class T> std::vector<T> unwritten(size_t n) {
    std::vector<T> v(n);
    std::memset((void*)v.data(), 0xff, n * sizeof(T));
    return v;
}

template <class T> bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

struct Record {
    int cases = 0;
    double share = 0, error = 0, bound = 0; // the largest share of a bound, with its error
};
inline std::map<std::string, Record> records;

[[noreturn]] inline void wrong(const std::string& kernel, const std::string& what) {
    std::fprintf(stderr, "%s: %s\n", kernel.c_str(), what.c_str());
    std::exit(1);
}

/// Ends the test if the error of a value exceeds `bound`.
template <class T>
void compare(const std::string& kernel, const std::string& which, const std::vector<T>& found,
             const std::vector<double>& expected, const std::function<double(size_t)>& bound) {
    Record& record = records[kernel];
    record.cases++;
    if (found.size() != expected.size())
        wrong(kernel, which + ": " + std::to_string(found.size()) + " values");
    for (size_t i = 0; i < found.size(); i++) {
        const double value = to_float(found[i]), error = std::abs(value - expected[i]), most = bound(i);
        if (!(error <= most))
            wrong(kernel, which + ": value " + std::to_string(i) + " is " + std::to_string(value) + ", expected " +
                              std::to_string(expected[i]) + "; error " + std::to_string(error / most) + " of its bound");
        if (error / most > record.share)
            record.share = error / most, record.error = error, record.bound = most;
    }
}

/// Returns the result of `run`. Ends the test unless it is the same bit for bit in every order of
/// the threads.
template <class T> std::vector<T> in_every_order(const std::string& kernel, const std::function<std::vector<T>()>& run) {
    std::vector<T> first;
    for (auto order : {emulator::Order::FORWARD, emulator::Order::BACKWARD, emulator::Order::SHUFFLED}) {
        emulator::order = order;
        auto result = run();
        if (first.empty())
            first = std::move(result);
        else if (!same(first, result))
            wrong(kernel, "other bits in another order of the threads: a barrier is missing");
    }
    return first;
}

inline int report() {
    for (const auto& [kernel, r] : records)
        std::printf("%-20s %4d cases, largest error %.2f of its bound (%.1e of %.1e)\n", kernel.c_str(), r.cases, r.share,
                    r.error, r.bound);
    return 0;
}

/// Scales and a bias for sums, or none of them.
struct Left {
    std::vector<float> of_rows, of_columns, bias;
    Left(size_t rows, int width, bool scaled, bool biased) {
        if (scaled)
            of_rows = numbers<float>(rows, width + 8, 0.25f, 1), of_columns = numbers<float>(width, width + 9, 0.25f, 1);
        if (biased)
            bias = numbers<float>(width, 5);
    }
    /// Null for what is not there; the scales from row `row` on.
    const float* rows_from(size_t row) const { return of_rows.empty() ? nullptr : &of_rows[row]; }
    const float* columns() const { return of_columns.empty() ? nullptr : of_columns.data(); }
    const float* biases() const { return bias.empty() ? nullptr : bias.data(); }
    double scaled(double sum, size_t row, size_t column) const {
        return of_rows.empty() ? sum : sum * of_rows[row] * of_columns[column];
    }
    double value(double sum, size_t row, size_t column) const {
        return scaled(sum, row, column) + (bias.empty() ? 0 : bias[column]);
    }
    /// The error of the value: that of two products and a sum.
    double error(double sum, size_t row, size_t column) const {
        return 0x1p-23 * std::abs(scaled(sum, row, column)) + 0x1p-24 * std::abs(value(sum, row, column));
    }
};

/// Threads for a row of `width` values, HELD per thread.
inline unsigned threads_of(int width) { return std::clamp((width + 255) / 256 * 32, 32, 1024); }

/// norm(row), by its formula. The numbers of `norm` are those of the kernels.
inline void reference_norm(double* row, int width, int norm, const float* gamma, const float* beta, float eps) {
    double mean = 0, squares = 0;
    if (norm == 0)
        return;
    for (int i = 0; i < width && norm == 1; i++)
        mean += row[i] / width;
    for (int i = 0; i < width; i++)
        squares += (row[i] - mean) * (row[i] - mean) / width;
    for (int i = 0; i < width; i++)
        row[i] = (row[i] - mean) / std::sqrt(squares + eps) * gamma[i] + (beta ? beta[i] : 0);
}

/// The activations by their formulas, with the numbers of the kernels.
inline double reference_activation(int activation, double x) {
    switch (activation) {
    case 1:
        return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case 2:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 3:
        return x / (1 + std::exp(-x));
    case 4:
        return std::max(x, 0.0);
    default:
        return x;
    }
}
