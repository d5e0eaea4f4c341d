// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <fstream>
#include <string>

#include <benchmark/benchmark.h>

#include <ropewalk/core/simd.hpp>

#include "support/roof.hpp"

#define BENCH_TEXT2(x) #x
#define BENCH_TEXT(x) BENCH_TEXT2(x)

namespace {

/// What Linux calls the first processor: model name, family and model. Empty elsewhere.
std::string cpu_model() {
    std::ifstream in("/proc/cpuinfo");
    std::string name, family, model;
    for (std::string line; std::getline(in, line) && !line.empty();) {
        const auto value = [&](const char* key, std::string& to) {
            if (line.rfind(key, 0) == 0 && line.find(": ") != std::string::npos)
                to = line.substr(line.find(": ") + 2);
        };
        value("model name\t", name), value("cpu family\t", family), value("model\t", model);
    }
    return name.empty() ? name : name + " (family " + family + ", model " + model + ")";
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::AddCustomContext("ropewalk", ROPEWALK_VERSION_STRING);
    if (const std::string cpu = cpu_model(); !cpu.empty()) benchmark::AddCustomContext("cpu_model", cpu);
    benchmark::AddCustomContext("kernels_compiled_for", BENCH_TEXT(ROPEWALK_ISA));
    benchmark::AddCustomContext("roof_registers", bench::roof_registers());
#if defined(__clang__)
    benchmark::AddCustomContext("compiler", __VERSION__);
#else
    benchmark::AddCustomContext("compiler", "GCC " __VERSION__);
#endif
#if defined(BENCH_FLAGS)
    benchmark::AddCustomContext("flags", BENCH_FLAGS);
#endif
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
