// Tests the emulator itself: errors in a kernel end the program, and the operands of tensor cores
// have the layout in the PTX manual (PTX ISA, "Matrix Fragments for mma.m16n8k16").
#include <sys/wait.h>
#include <unistd.h>

#include "testing.hpp"

KERNEL(64) leaves_early() {
    if (threadIdx.x < 3)
        return;
    __syncthreads();
}
KERNEL(64) leaves_late() {
    if (threadIdx.x < 60)
        __syncthreads();
}
KERNEL(64) splits_a_warp() {
    if (threadIdx.x % 32 < 16)
        shuffle_xor(1.0f, 1);
    else
        __syncwarp();
}
KERNEL(64) half_a_warp() {
    if (threadIdx.x < 16)
        shuffle_xor(1.0f, 1);
}
KERNEL(64) out_of_bounds(float* x) { x[threadIdx.x] = 1; }
KERNEL(64) out_of_shared_bounds() {
    DYNAMIC_SHARED(shared);
    shared[threadIdx.x] = {};
}
KERNEL(64) unaligned(float* x) { *(float4*)(x + 1) = {}; }

/// Each thread reads what another writes, with or without a barrier between.
KERNEL(64) neighbours(float* y, int with_barrier) {
    DYNAMIC_SHARED(shared);
    float* const values = (float*)shared;
    values[threadIdx.x] = threadIdx.x;
    if (with_barrier)
        __syncthreads();
    y[threadIdx.x] = values[(threadIdx.x + 40) % 64];
}
/// Reads copied values without waiting for them.
KERNEL(64) does_not_wait(const uint4* x, float* y) {
    DYNAMIC_SHARED(shared);
    copy_async(shared + threadIdx.x, x + threadIdx.x, true);
    y[threadIdx.x] = ((float*)(shared + threadIdx.x))[0];
}

/// c = a · b of whole matrices, with the manual's layout.
template <class T> DEVICE void product(const T* a, const T* b, float* c) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32_t fragment[4], of_b[2];
    float sums[4] = {};
    const auto pair = [](T low, T high) { return (uint32_t)high.bits << 16 | low.bits; };
    for (int i = 0; i < 4; i++) {
        const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
        fragment[i] = pair(a[row * 16 + column], a[row * 16 + column + 1]);
    }
    for (int i = 0; i < 2; i++)
        of_b[i] = pair(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 8 * i + 1) * 8 + g]);
    multiply_add<T>(sums, fragment, of_b[0], of_b[1]);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}
KERNEL(32) product_f16(const f16* a, const f16* b, float* c) { product(a, b, c); }
KERNEL(32) product_bf16(const bf16* a, const bf16* b, float* c) { product(a, b, c); }

/// Whether `run` ends the program.
static bool dies(const std::function<void()>& run) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        std::freopen("/dev/null", "w", stderr) ? void() : std::abort();
        run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void expect(bool holds, const char* what) {
    if (!holds)
        wrong("emulator", what);
    records["emulator"].cases++;
}

template <class T> void test_product(auto kernel) {
    const auto a = numbers<T>(16 * 16, 1), b = numbers<T>(16 * 8, 2);
    const auto c = in_every_order<float>("multiply_add", [&] {
        auto c = unwritten<float>(16 * 8);
        launch({1, 32}, kernel, a.data(), b.data(), c.data());
        return c;
    });
    std::vector<double> expected(16 * 8);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++)
            for (int k = 0; k < 16; k++)
                expected[i * 8 + j] += (double)to_float(a[i * 16 + k]) * to_float(b[k * 8 + j]);
    compare(std::string("multiply_add_") + NAME<T>, "16 x 8", c, expected, [&](size_t i) { return 0x1p-23 * std::abs(expected[i]); });
}

int main() {
    test_product<f16>(product_f16);
    test_product<bf16>(product_bf16);
    const std::vector<uint4> x(64);
    auto y = unwritten<float>(64), small = unwritten<float>(63);
    const auto run = [&](auto order, int with_barrier) {
        emulator::order = order;
        launch({1, 64, 256}, neighbours, y.data(), with_barrier);
        return y;
    };
    using emulator::Order;
    expect(same(run(Order::FORWARD, 1), run(Order::BACKWARD, 1)), "a barrier makes the order matter");
    expect(!same(run(Order::FORWARD, 0), run(Order::BACKWARD, 0)), "a missing barrier is not seen");
    launch({1, 64, 1024}, does_not_wait, x.data(), y.data());
    expect(std::isnan(y[0]) && std::isnan(y[63]), "a copy is there before it is waited for");
    expect(!dies([&] { run(Order::SHUFFLED, 1); }), "a good kernel ends the program");
    expect(dies([] { launch({1, 64}, leaves_early); }), "threads that left before a barrier");
    expect(dies([] { launch({1, 64}, leaves_late); }), "threads that leave while others wait");
    expect(dies([] { launch({1, 64}, splits_a_warp); }), "a warp that does two things");
    expect(dies([] { launch({1, 64}, half_a_warp); }), "half a warp that waits for the other");
    expect(dies([] { launch({1, 33}, half_a_warp); }), "a block of no whole warps");
    expect(dies([&] { launch({1, 64}, out_of_bounds, small.data()); }), "a write behind the end of memory");
    expect(dies([&] { launch({1, 64, 63 * 16}, out_of_shared_bounds); }), "a write behind the end of shared memory");
    expect(dies([&] { launch({1, 64}, unaligned, y.data()); }), "a vector that is not aligned");
    return report();
}
