// `library.cpp`: kernels by their names. What is in the PTX is in the library, and nothing else.
#include "../library.cpp"

#include <filesystem>
#include <fstream>
#include <set>

#include "testing.hpp"

int main() {
    std::set<std::string> in_library, in_ptx;
    for (const auto& kernel : emulator::KERNELS)
        in_library.insert(kernel.name);
    const auto folder = std::filesystem::path(__FILE__).parent_path() / "../../kernels/ptx";
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
        std::ifstream ptx(file.path());
        for (std::string line; std::getline(ptx, line);)
            if (line.rfind(".visible .entry ", 0) == 0)
                in_ptx.insert(line.substr(16, line.find('(') - 16));
    }
    if (in_library != in_ptx)
        wrong("library", "its kernels are not those of the PTX");

    auto x = numbers<float>(2 * 100, 1), direct = x;
    float* pointer = x.data();
    int width = 100;
    void* arguments[] = {&pointer, &width};
    if (gte_emulator_launch("normalize", 2, 1, 256, 0, arguments) != 0 || gte_emulator_launch("no such kernel", 1, 1, 32, 0, arguments) != 1)
        wrong("library", "finds no kernel, or one that is not there");
    launch({2, 256}, of_heads::normalize, direct.data(), 100);
    if (!same(x, direct))
        wrong("library", "other values by name");
    records["library"].cases++;
    return report();
}
