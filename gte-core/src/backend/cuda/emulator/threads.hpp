// Runs the threads of a block on one thread of the CPU, as fibers. Each runs until it waits for
// others.
//
// Threads wait where they wait on a GPU: __syncthreads waits for the block; shuffles, matrix
// products and __syncwarp wait for the 32 lanes of a warp. The program ends with a message if lanes
// of a warp wait in different operations, if a thread leaves while others wait for it, or if no
// thread of a block can continue. Each block gets new shared memory of exactly the size in the
// launch, filled with NaNs, so that accesses out of bounds and reads of unwritten memory are found.
//
// `order` determines the order in which threads run: warp by warp, each until it waits, from the
// first or from the last, or all of them shuffled. A kernel whose result depends on it lacks a
// barrier.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 {
    unsigned x = 0, y = 0, z = 0;
};
struct dim3 : uint3 {
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

inline constinit thread_local uint3 threadIdx, blockIdx;
inline constinit thread_local dim3 blockDim, gridDim;

namespace emulator {

enum class Order { FORWARD, BACKWARD, SHUFFLED };
inline thread_local Order order = Order::FORWARD;

[[noreturn]] inline void fail(const char* what, const char* which = "") {
    std::fprintf(stderr, "block (%u, %u), thread %u: %s%s\n", blockIdx.x, blockIdx.y, threadIdx.x, what, which);
    std::abort();
}

#if defined(__x86_64__)
// Saves the registers that a call preserves and the stack of one fiber, and loads those of another.
extern "C" void gte_switch_stacks(void** from, void* to);
asm(R"(
    .text
    .weak gte_switch_stacks
    .type gte_switch_stacks, @function
gte_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size gte_switch_stacks, .-gte_switch_stacks
)");
#endif

/// The stack of a thread of a block, and its position on it.
struct Fiber {
    static constexpr size_t STACK = 256 << 10; // sanitizers need much
    std::unique_ptr<char[]> stack{new char[STACK]};
#if defined(__x86_64__)
    void* place = nullptr;
#else
    ucontext_t place;
#endif
    enum { READY, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE } state = DONE;
    void* sanitizer = nullptr;
    std::vector<std::tuple<void*, const void*>> copies; // begun, but not waited for; null copies zeros
};

/// An operation of all lanes of a warp.
struct Warp {
    int arrived = 0, left = 0;
    const char* what = nullptr;
    void* lanes[32] = {};
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Fiber scheduler;
    int current = 0, threads = 0, at_barrier = 0, left = 0;
    std::unique_ptr<char[]> shared;
    void (*entry)(void*) = nullptr;
    void* arguments = nullptr;

    static Block& here() {
        static thread_local Block block;
        return block;
    }

    Fiber& fiber() { return fibers[current]; }
    Warp& warp() { return warps[current / 32]; }

    static void change(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
        const bool ends = from.state == Fiber::DONE && &from != &here().scheduler;
        const bool own = &to == &here().scheduler;
        __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, own ? here().bottom : to.stack.get(),
                                       own ? here().bottom_size : Fiber::STACK);
#endif
#if defined(__x86_64__)
        gte_switch_stacks(&from.place, to.place);
#else
        swapcontext(&from.place, &to.place);
#endif
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
    }

    /// Lets other threads run until one of them makes this one ready again.
    void wait() {
        const int own = current;
        change(fibers[own], scheduler);
    }

    static void begin() {
        Block& block = here();
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &block.bottom, &block.bottom_size);
#endif
        block.entry(block.arguments);
        block.fiber().state = Fiber::DONE;
        block.left++, block.warp().left++;
        if (block.at_barrier > 0)
            fail("leaves while others wait for it in __syncthreads");
        change(block.fiber(), block.scheduler);
        std::abort(); // it never runs again
    }

    void prepare(Fiber& fiber) {
        fiber.state = Fiber::READY;
        fiber.copies.clear();
#if defined(__x86_64__)
        // The stack as gte_switch_stacks leaves it: six registers, then the return address. A
        // function begins with its stack 8 bytes off a multiple of 16.
        auto top = (uintptr_t)(fiber.stack.get() + Fiber::STACK) & ~(uintptr_t)15;
        void** words = (void**)top - 8;
        std::memset(words, 0, 8 * sizeof(void*));
        words[6] = (void*)begin;
        fiber.place = words;
#else
        getcontext(&fiber.place);
        fiber.place.uc_stack.ss_sp = fiber.stack.get();
        fiber.place.uc_stack.ss_size = Fiber::STACK;
        makecontext(&fiber.place, begin, 0);
#endif
    }

    /// Runs all threads of one block.
    void run(size_t shared_bytes) {
        shared.reset(new char[shared_bytes]);
        std::memset(shared.get(), 0xff, shared_bytes);
        if (fibers.size() < (size_t)threads)
            fibers.resize(threads);
        warps.assign(threads / 32, {});
        at_barrier = 0, left = 0;
        std::vector<int> turns(threads);
        for (int i = 0; i < threads; i++) {
            turns[i] = order == Order::BACKWARD ? threads - 1 - i : i;
            prepare(fibers[i]);
        }
        const int together = order == Order::SHUFFLED ? threads : 32; // threads that run before any other does
        uint64_t random = 88172645463325252;
        for (bool some = true; some;) {
            some = false;
            for (int first = 0; first < threads; first += together)
                for (bool more = true; more;) {
                    more = false;
                    for (int i = threads - 1; order == Order::SHUFFLED && i > 0; i--) {
                        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                        std::swap(turns[i], turns[random % (i + 1)]);
                    }
                    for (int i = first; i < first + together; i++)
                        if (fibers[turns[i]].state == Fiber::READY) {
                            some = more = true;
                            current = turns[i], threadIdx.x = turns[i];
                            change(scheduler, fibers[turns[i]]);
                        }
                }
        }
        for (int i = 0; i < threads; i++)
            if (fibers[i].state != Fiber::DONE) {
                threadIdx.x = i;
                fail("waits forever in ", fibers[i].state == Fiber::WAITS_FOR_BLOCK ? "__syncthreads" : warps[i / 32].what);
            }
    }

    void barrier() {
        if (left > 0)
            fail("waits in __syncthreads for threads that have left");
        fiber().state = Fiber::WAITS_FOR_BLOCK;
        if (++at_barrier < threads)
            return wait();
        at_barrier = 0;
        for (int i = 0; i < threads; i++)
            fibers[i].state = Fiber::READY;
    }

    /// The last lane of a warp to arrive calls `compute` with the arguments of all lanes.
    template <class Compute> void together(const char* what, void* own, Compute compute) {
        Warp& warp = this->warp();
        const int first = current / 32 * 32;
        if (warp.left > 0)
            fail("waits for lanes that have left, in ", what);
        if (warp.arrived > 0 && warp.what != what && std::strcmp(warp.what, what) != 0)
            fail("lanes of one warp do different things together, one of them ", what);
        warp.what = what;
        warp.lanes[current % 32] = own;
        fiber().state = Fiber::WAITS_FOR_WARP;
        if (++warp.arrived < 32)
            return wait();
        warp.arrived = 0;
        compute(warp.lanes);
        for (int i = 0; i < 32; i++)
            fibers[first + i].state = Fiber::READY;
    }

    const void* bottom = nullptr; // of the scheduler's stack
    size_t bottom_size = 0;
};

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
};

/// Runs a kernel, one block after the other.
template <class... Parameters, class... Arguments>
void launch(Launch geometry, void (*kernel)(Parameters...), Arguments... arguments) {
    using Call = std::tuple<void (*)(Parameters...), std::tuple<Parameters...>>;
    Call call{kernel, {arguments...}};
    Block& block = Block::here();
    block.entry = [](void* call) { std::apply(std::get<0>(*(Call*)call), std::get<1>(*(Call*)call)); };
    block.arguments = &call;
    block.threads = geometry.block.x;
    blockDim = geometry.block, gridDim = geometry.grid;
    if (block.threads == 0 || block.threads % 32 != 0 || block.threads > 1024 || geometry.grid.y > 65535)
        fail("no such launch");
    for (unsigned y = 0; y < geometry.grid.y; y++)
        for (unsigned x = 0; x < geometry.grid.x; x++) {
            blockIdx = {x, y, 0};
            block.run(geometry.shared_bytes);
        }
}

} // namespace emulator

inline void __syncthreads() { emulator::Block::here().barrier(); }
inline void __syncwarp() { emulator::Block::here().together("__syncwarp", nullptr, [](void**) {}); }
