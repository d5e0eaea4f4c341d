// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <benchmark/benchmark.h>

#include <ropewalk/core/simd.hpp>

#include "support/roof.hpp"

#define BENCH_TEXT2(x) #x
#define BENCH_TEXT(x) BENCH_TEXT2(x)

int main(int argc, char** argv) {
    benchmark::AddCustomContext("ropewalk", ROPEWALK_VERSION_STRING);
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
