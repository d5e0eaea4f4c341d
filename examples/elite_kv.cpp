// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// EliteKV on the tiny checkpoint without training: nats per byte of held-out text against the size of the
// cache. First pairs chosen in four ways rotate, with a latent that loses nothing; then the latent narrows,
// one for keys and values together (J-LRD) or one each (S-LRD).     elite_kv [--svg FILE]
#include <ropewalk/compression/low_rank.hpp>

#include "figures/svg.hpp"
#include "tinylm/score.hpp"
#include "tinylm/trace.hpp"

namespace tinylm {

void run(const std::string& file) {
    const model m = load_model("data/tinylm");
    const std::string bytes = read_file("data/tinylm/heldout.txt");
    const tokens_view text(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const index context = 256;
    const auto omega = rw::make_model_schemes(rw::from_huggingface(m.config))[0].spectrum_for(context);
    const auto seen = trace_layers(m, bytes.substr(bytes.size() - 2048), context);
    const index all = omega.pairs();
    using rankings = std::vector<rw::elite_ranking>;  // one a layer
    rankings elite, sampled, contribution;
    for (const auto& layer : seen) {
        elite.push_back(rw::make_elite_ranking(layer.q(), layer.k(), omega, {.rounds = all}));
        sampled.push_back(
            rw::make_elite_ranking(layer.q(), layer.k(), omega, {.rounds = all, .queries = 16}));
        contribution.push_back(rw::make_contribution_ranking(layer.q(), layer.k(), omega, {.rounds = all}));
    }
    const auto uniform = [&](index r) {
        return rankings(seen.size(), rw::make_uniform_ranking(m.kv_heads, omega.pairs(), r));
    };

    svg::chart picture{"Fewer rotated pairs, and a latent for the rest", "cache / full keys and values",
                       "nats per byte"};
    std::printf("%-18s%8s%8s%8s%8s\n", "", "pairs", "latent", "cache", "nats");
    const auto measure = [&](const rankings& by, index r, index latent, bool split) {
        model packed = m;  // weights of packed heads; keys and values through the latent
        std::vector<rw::rotary_scheme> ropes;
        std::vector<int> of_layer;
        double ratio = 0;
        for (std::size_t l = 0; l < seen.size(); ++l) {
            const rw::elite_layout layout(by[l].elite(r), m.kv_heads, m.head_dim);
            auto& w = packed.layer[l];
            const Eigen::MatrixXd q = w.q.cast<double>(), k = w.k.cast<double>(), v = w.v.cast<double>();
            const auto narrow = split ? rw::make_elite_weights<float>(
                                            q, k, v, layout, rw::make_best_split(k, v, layout, latent))
                                      : rw::make_elite_weights<float>(q, k, v, layout, latent);
            w.q = narrow.queries;
            w.k = narrow.effective_keys();
            w.v = narrow.effective_values();
            ropes.push_back(layout.scheme(omega, m.heads));
            of_layer.push_back(static_cast<int>(l));
            ratio = rw::elite_cache_ratio(layout, latent);
        }
        const rw::model_schemes schemes(ropes, of_layer);
        const double nats = score(packed, text.first(8192), context, [&] {
                                return make_hook(schemes, context);
                            }).nats_per_byte;
        auto& line = picture.lines.back();
        line.x.push_back(ratio);
        line.y.push_back(nats);
        std::printf("%-18s%8td%8td%8.3f%8.4f\n", line.name.c_str(), r, latent, ratio, nats);
    };
    const auto begin = [&](const std::string& name) { picture.lines.push_back({name, {}, {}}); };
    const std::vector<index> pairs{2, 4, 6, 8, 10, 12, 16}, latents{16, 32, 48, 64, 96, 128};
    for (begin("RoPElite"); index r : pairs) measure(elite, r, m.hidden, false);
    for (begin("16 queries of 256"); index r : pairs) measure(sampled, r, m.hidden, false);
    for (begin("uniform"); index r : pairs) measure(uniform(r), r, m.hidden, false);
    for (begin("contribution"); index r : pairs) measure(contribution, r, m.hidden, false);
    for (begin("RoPElite 8, J-LRD"); index latent : latents) measure(elite, 8, latent, false);
    for (begin("RoPElite 8, S-LRD"); index latent : latents) measure(elite, 8, latent, true);
    if (!file.empty()) svg::write(file, picture);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
