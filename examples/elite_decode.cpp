// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The first layer of the tiny checkpoint with EliteKV's cache: half of the pairs rotate, and keys and values
// come from one latent. After a prompt and decode steps, it prints the bytes of the cache beside those of
// full keys and values, and the change of the layer's output from the low-rank weights and from bf16.
#include <ropewalk/compression/elite_attention.hpp>

#include "tinylm/model.hpp"
#include "tinylm/trace.hpp"

namespace tinylm {

using matrix = rw::elite_weights<float>::matrix;

int run() {
    const model m = load_model("data/tinylm");
    const std::string bytes = read_file("data/tinylm/heldout.txt");
    const index context = 256, prompt = 224;
    const auto omega = rw::make_model_schemes(rw::from_huggingface(m.config))[0].spectrum_for(context);
    const auto seen = trace_layers(m, bytes.substr(0, 2048), context);
    const auto ranking = rw::make_elite_ranking(seen[0].q(), seen[0].k(), omega, {.rounds = omega.pairs()});
    const auto& w = m.layer[0];
    const Eigen::MatrixXd q = w.q.cast<double>(), k = w.k.cast<double>(), v = w.v.cast<double>();
    // The layer's input: normalised embeddings of the text.
    matrix x(context, m.hidden);
    for (index n = 0; n < context; ++n) {
        x.row(n) = m.embedding.row(static_cast<unsigned char>(bytes[static_cast<std::size_t>(n)]));
        x.row(n) *= std::sqrt(static_cast<float>(m.hidden)) / x.row(n).norm();
    }
    const auto through = [&](index pairs, index latent, auto storage) {
        using E = decltype(storage);
        const rw::elite_layout layout(ranking.elite(pairs), m.kv_heads, m.head_dim);
        const rw::elite_attention<float> layer(rw::make_elite_weights<float>(q, k, v, layout, latent), omega);
        auto cache = layer.make_cache<E>();
        matrix out(context, m.heads * m.head_dim);
        out.topRows(prompt) = layer.forward(x.topRows(prompt), cache);
        for (index n = prompt; n < context; ++n) out.row(n) = layer.forward(x.row(n), cache);
        return std::pair(out, cache.bytes());
    };
    const auto [full, unused] = through(omega.pairs(), m.hidden, float{});
    const index plain = context * 2 * m.kv_heads * m.head_dim * index{sizeof(rw::bf16)};
    std::printf("%td tokens, keys and values of one layer in bf16: %td bytes\n", context, plain);
    double worst = 0;
    for (const index latent : {128, 64, 32}) {
        const auto [out, held] = through(8, latent, rw::bf16{});
        const double error = static_cast<double>((out - full).norm() / full.norm());
        std::printf("8 of %td pairs rotate, latent of %3td: %6td bytes held (%.3f), output off by %.3f\n",
                    omega.pairs(), latent, held, static_cast<double>(held) / static_cast<double>(plain),
                    error);
        worst = std::max(worst, error);
    }
    return worst < 1 ? 0 : 1;
}

}  // namespace tinylm

int main() {
    try {
        return tinylm::run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
