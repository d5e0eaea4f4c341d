// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// EliteKV on the tiny checkpoint, untrained: which pairs must turn, and what a latent for the rest costs.
// Nats per byte of held-out text against the size of the cache, for three ways to choose the pairs.
//     elite_kv [--svg FILE]
#include <cstdio>

#include <ropewalk/cache/low_rank.hpp>

#include "figures/svg.hpp"
#include "tinylm/score.hpp"

namespace tinylm {
namespace {

/// Unrotated queries and keys of every layer over a calibration text.
std::vector<std::pair<std::vector<float>, std::vector<float>>> calibrate(const model& m, tokens_view text) {
    std::vector<std::pair<std::vector<float>, std::vector<float>>> seen(static_cast<std::size_t>(m.layers));
    const auto rope = make_hook(rw::make_model_schemes(rw::from_huggingface(m.config)),
                                static_cast<std::int64_t>(text.size()));
    kv_cache<> cache(m, static_cast<index>(text.size()));
    forward(m, text, cache, [&](index layer, auto q, auto k, auto positions) {
        auto& [queries, keys] = seen[static_cast<std::size_t>(layer)];
        queries.assign(q.data, q.data + q.tokens() * q.heads() * q.channels());
        keys.assign(k.data, k.data + k.tokens() * k.heads() * k.channels());
        rope(layer, q, k, positions);
    });
    return seen;
}

int run(const std::string& file) {
    const model m = load_model("data/tinylm");
    const std::string bytes = read_file("data/tinylm/heldout.txt");
    const std::vector<std::uint8_t> text(bytes.begin(), bytes.end());
    const tokens_view all(text);
    const index context = 256, tokens = 512, latent_step = 32;
    const auto omega = rw::make_model_schemes(rw::from_huggingface(m.config))[0].spectrum_for(context);
    const auto seen = calibrate(m, all.last(static_cast<std::size_t>(tokens)));

    svg::chart picture{"Elite pairs on the tiny checkpoint, untrained", "cache against full keys and values",
                       "nats per byte"};
    std::printf("%-13s%8s%8s%8s%8s\n", "pairs by", "r", "latent", "cache", "nats");
    for (const std::string by : {"RoPElite", "uniform", "contribution"}) {
        picture.lines.push_back({by, {}, {}});
        for (index r : {2, 4, 6, 8, 12}) {
            const index latent = std::min(r * latent_step, m.hidden);
            model packed = m;  // weights of packed heads; keys and values through the latent
            std::vector<rw::rotary_scheme> ropes;
            double ratio = 0;
            for (std::size_t l = 0; l < seen.size(); ++l) {
                const rw::heads_view q(seen[l].first.data(), tokens, m.heads, m.head_dim);
                const rw::heads_view k(seen[l].second.data(), tokens, m.kv_heads, m.head_dim);
                const auto ranking = by == "RoPElite" ? rw::make_elite_ranking(q, k, omega, {.rounds = r})
                                     : by == "uniform"
                                         ? rw::make_uniform_ranking(m.kv_heads, omega.pairs(), r)
                                         : rw::make_contribution_ranking(q, k, omega, {.rounds = r});
                const rw::elite_layout layout(ranking.elite(r), m.kv_heads, m.head_dim);
                auto& w = packed.layer[l];
                const auto elite = rw::make_elite_weights<float>(w.q.cast<double>(), w.k.cast<double>(),
                                                                 w.v.cast<double>(), layout, latent);
                w.q = elite.queries;
                w.k = elite.effective_keys();
                w.v = elite.effective_values();
                ropes.push_back(layout.scheme(omega, m.heads));
                ratio = rw::elite_cache_ratio(layout, latent);
            }
            std::vector<int> each;
            for (index l = 0; l < m.layers; ++l) each.push_back(static_cast<int>(l));
            const rw::model_schemes schemes{ropes, each};
            const double nats = score(packed, all.first(8192), context, [&] {
                                    return make_hook(schemes, context);
                                }).nats_per_byte;
            std::printf("%-13s%8td%8td%8.3f%8.4f\n", by.c_str(), r, latent, ratio, nats);
            picture.lines.back().x.push_back(ratio);
            picture.lines.back().y.push_back(nats);
        }
    }
    if (!file.empty()) svg::write(file, picture);
    return 0;
}

}  // namespace
}  // namespace tinylm

int main(int count, char** text) {
    try {
        const bool drawn = count == 3 && std::string(text[1]) == "--svg";
        if (count != 1 && !drawn) throw std::invalid_argument("usage: elite_kv [--svg FILE]");
        return tinylm::run(drawn ? text[2] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "elite_kv: %s\n", error.what());
        return 1;
    }
}
