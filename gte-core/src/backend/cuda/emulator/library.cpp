// The kernels as a shared library that is called like a driver: with a kernel's name and pointers
// to its arguments. The backend's tests run whole models with it.
//
//   g++ -std=c++20 -O2 -Wno-unknown-pragmas -shared -fPIC -o libgte_emulator.so library.cpp
#include "../kernels/mask.cuh"
#include "../kernels/norm.cuh"

// Each file in its own namespace, because their constants have the same names.
namespace of_activation {
#include "../kernels/activation.cu"
}
namespace of_attention {
#include "../kernels/attention.cu"
}
namespace of_attention_f32 {
#include "../kernels/attention_f32.cu"
}
namespace of_dense {
#include "../kernels/dense.cu"
}
namespace of_embedding {
#include "../kernels/embedding.cu"
}
namespace of_fp8 {
#include "../kernels/fp8.cu"
}
namespace of_norm {
#include "../kernels/norm.cu"
}
namespace of_pooling {
#include "../kernels/pooling.cu"
}
namespace of_rope {
#include "../kernels/rope.cu"
}

namespace emulator {

using Entry = void (*)(Launch, void**);

template <class... Parameters, size_t... I>
void call(Launch geometry, void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    launch(geometry, kernel, *(Parameters*)arguments[I]...);
}

template <class... Parameters> void call(Launch geometry, void (*kernel)(Parameters...), void** arguments) {
    call(geometry, kernel, arguments, std::index_sequence_for<Parameters...>());
}

struct Named {
    const char* name;
    Entry entry;
};

#define OF(file, kernel) {#kernel, [](Launch geometry, void** arguments) { call(geometry, of_##file::kernel, arguments); }}
#define OF_EACH(file, kernel) OF(file, kernel##_f32), OF(file, kernel##_f16), OF(file, kernel##_bf16)

inline const Named KERNELS[] = {
    OF_EACH(activation, activate),
    OF_EACH(activation, gate),
    OF(attention, attention_f16_32),
    OF(attention, attention_f16_64),
    OF(attention, attention_f16_128),
    OF(attention, attention_bf16_32),
    OF(attention, attention_bf16_64),
    OF(attention, attention_bf16_128),
    OF(attention_f32, attention_f32),
    OF(dense, dense),
    OF(dense, unit),
    OF_EACH(embedding, embed),
    OF(fp8, quantize_fp8),
    OF_EACH(norm, add_norm),
    OF(pooling, pool),
    OF(pooling, pick),
    OF_EACH(rope, rope),
};

} // namespace emulator

/// Runs the kernel `name` to its end, on this thread. `arguments` are pointers to its arguments, as
/// for cuLaunchKernel. Returns 0, or 1 if there is no such kernel. An error in a kernel ends the
/// program.
extern "C" int gte_emulator_launch(const char* name, unsigned blocks_x, unsigned blocks_y, unsigned threads, size_t shared_bytes,
                                   void** arguments) {
    for (const auto& kernel : emulator::KERNELS)
        if (std::strcmp(kernel.name, name) == 0) {
            kernel.entry({{blocks_x, blocks_y}, threads, shared_bytes}, arguments);
            return 0;
        }
    return 1;
}
