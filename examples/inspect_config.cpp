// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// What does a model's config.json or GGUF file specify about its rotary embedding? It explains every kind of
// layer; with a folder it also draws wavelengths, decay and what each scaling would change.
//     inspect_config [FILE [FOLDER]]
#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>

#include <ropewalk/analysis/base_bound.hpp>
#include <ropewalk/analysis/decay.hpp>
#include <ropewalk/analysis/frequency_usage.hpp>
#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/explain.hpp>
#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/gguf_file.hpp>
#include <ropewalk/models/huggingface_json.hpp>

#include "figures/svg.hpp"

namespace rw = ropewalk;
using namespace rw::frequencies;

svg::series by_pair(const char* name, const std::vector<double>& values) {
    std::vector<double> pairs(values.size());
    std::iota(pairs.begin(), pairs.end(), 0.0);
    return {name, pairs, values};
}

/// The curve oscillates: each point is the mean over the distances up to the next.
svg::series decay_of(double base, rw::index rotary_dim, double longest) {
    svg::series s{"base " + rw::detail::text(base), {}, {}};
    const auto spectrum = geometric({.rotary_dim = rotary_dim, .base = base});
    for (double r = 1; r < longest; r = std::ceil(r * 1.15)) {
        double sum = 0;
        for (int i = 0; i < 64; ++i) sum += rw::analysis::mean_partial_sum(spectrum, r * (1 + 0.15 * i / 64));
        s.x.push_back(r);
        s.y.push_back(sum / 64);
    }
    return s;
}

void draw(const rw::rotary_scheme& rope, const rw::rope_parameters& said, const std::string& stem) {
    const rw::index d = rope.rotary_dim;
    const double base = said.base, factor = std::max(said.factor.value_or(4), 2.0);
    const double trained = rope.original_context > 0 ? static_cast<double>(rope.original_context) : 4096.0;
    const auto plain = geometric({d, base});
    const auto own = rope.spectrum_for(static_cast<std::int64_t>(said.factor.value_or(1) * trained));
    const auto kept = [&](const rw::spectrum& s) { return pair_factors(s, plain); };
    svg::chart waves{rope.name + ": positions per turn", "pair", "wavelength (tokens)"};
    waves.lines = {by_pair("as configured", rw::analysis::make_wavelengths(own)),
                   by_pair("unscaled", rw::analysis::make_wavelengths(plain)),
                   by_pair("trained at", std::vector<double>(static_cast<std::size_t>(d / 2), trained))};
    waves.y_scale = svg::axis_scale::log10;
    svg::chart decay{"Long-term decay, mean over neighbouring distances", "distance (tokens)",
                     "mean |partial sum|"};
    decay.lines = {decay_of(base, d, 2 * trained), decay_of(base > 2e4 ? 1e4 : 1e6, d, 2 * trained)};
    decay.x_scale = svg::axis_scale::log10;
    svg::chart moved{"What a factor of " + rw::detail::text(factor) + " moves", "pair",
                     "frequency / unscaled"};
    moved.lines = {by_pair("linear", kept(linear({d, base, factor}))),
                   by_pair("NTK-aware", kept(ntk({d, base, factor}))),
                   by_pair("YaRN", kept(yarn({d, base, factor, trained}))),
                   by_pair("Llama 3", kept(llama3({d, base, factor, 1, 4, trained})))};
    svg::write(stem + "_wavelengths.svg", waves);
    svg::write(stem + "_decay.svg", decay);
    svg::write(stem + "_scalings.svg", moved);
}

rw::model_config read(const std::string& path) {
    if (path.ends_with(".gguf")) return rw::from_gguf(rw::read_gguf_file(path).metadata);
    std::ifstream in(path);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return rw::from_huggingface(rw::parse_config(text));
}

int main(int argc, char** argv) try {
    const auto config = read(argc > 1 ? argv[1] : "data/tinylm/config.json");
    std::printf("%s", rw::explain(config).c_str());
    if (config.ropes.empty()) return 0;  // nothing rotates
    const auto& said = config.ropes.front();
    const auto rope = rw::make_scheme(config, said);
    const auto plain = geometric({.rotary_dim = rope.rotary_dim, .base = said.base});
    std::printf(
        "base %g without scaling: similar keys score above random ones up to a distance of %lld tokens\n",
        said.base, static_cast<long long>(rw::analysis::first_negative(plain, 1 << 20)));
    if (argc > 2) draw(rope, said, std::string(argv[2]) + "/" + config.model_type);
} catch (const std::exception& e) {
    std::fprintf(stderr, "inspect_config: %s\n", e.what());
    return 1;
}
