// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What a spectrum of 64 pairs costs under every scaling a config can name: paid once a model, or once a
// length where the scaling depends on it.
#include <benchmark/benchmark.h>

#include <string>

#include <ropewalk/models/model_config.hpp>

namespace rw = ropewalk;

namespace {

void spectrum(benchmark::State& state, rw::rope_scaling scaling) {
    rw::rope_parameters p{.scaling = scaling, .factor = 4, .original_context = 4096, .max_context = 16384};
    p.short_factors.assign(64, 1.5);
    p.long_factors.assign(64, 3.0);
    for (auto _ : state) benchmark::DoNotOptimize(rw::make_spectrum(p, 128, 65536));
}

[[maybe_unused]] const bool registered = [] {
    using rw::rope_scaling;
    for (const auto scaling : {rope_scaling::none, rope_scaling::linear, rope_scaling::dynamic_linear,
                               rope_scaling::ntk, rope_scaling::dynamic_ntk, rope_scaling::ntk_by_parts,
                               rope_scaling::yarn, rope_scaling::dynamic_yarn, rope_scaling::longrope,
                               rope_scaling::llama3, rope_scaling::proportional}) {
        const std::string name = std::string("spectrum/") + rw::to_text(scaling) + "/dim:128";
        benchmark::RegisterBenchmark(name.c_str(), spectrum, scaling)->MinTime(0.02);
    }
    return true;
}();

}  // namespace
