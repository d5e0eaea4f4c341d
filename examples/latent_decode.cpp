// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Multi-head latent attention at the sizes of one DeepSeek-V2-Lite layer, with random weights: a prompt, then
// decode, through a cache of latents. It shows that absorbing the projections changes only rounding, how
// large the cache is beside that of ordinary heads, and that a context shift rotates only the shared keys.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/compression/latent_attention.hpp>

namespace {

namespace rw = ropewalk;
using layer = rw::latent_attention<float>;

layer::matrix normal(rw::index rows, rw::index columns, double width) {
    static std::mt19937 engine(1);
    std::normal_distribution<float> draw(0, static_cast<float>(width));
    layer::matrix m(rows, columns);
    for (rw::index i = 0; i < m.size(); ++i) m.data()[i] = draw(engine);
    return m;
}
double apart(const layer::matrix& a, const layer::matrix& b) {
    return static_cast<double>((a - b).cwiseAbs().maxCoeff() / b.cwiseAbs().maxCoeff());
}

}  // namespace

int main() {
    const rw::mla::config c = rw::mla::deepseek_v2_lite();
    const double width = 1 / std::sqrt(static_cast<double>(c.hidden));
    layer attention(c, {.wq = normal(c.heads * (c.nope_dim + c.rope_dim), c.hidden, width),
                        .wkv_a = normal(c.latent + c.rope_dim, c.hidden, width),
                        .key_norm = std::vector<float>(static_cast<std::size_t>(c.latent), 1.f),
                        .wkv_b = normal(c.heads * (c.nope_dim + c.value_dim), c.latent, 0.04)});

    rw::latent_cache<> cache(c), expanded(c);
    rw::latent_cache<rw::bf16> small(c);
    const auto prompt = normal(48, c.hidden, 1);
    attention.append(prompt, cache), attention.append(prompt, expanded), attention.append(prompt, small);
    double absorbed = 0, rounded = 0;
    for (int step = 0; step < 8; ++step) {
        const auto x = normal(1, c.hidden, 1);
        const auto exact = attention.forward_naive(x, expanded);
        absorbed = std::max(absorbed, apart(attention.forward(x, cache), exact));
        rounded = std::max(rounded, apart(attention.forward(x, small), exact));
    }
    const rw::index plain = c.heads * (c.nope_dim + c.rope_dim + c.value_dim);
    std::printf("%td tokens, %td heads, logits times %.4f\n", cache.tokens(), c.heads,
                rw::mla::logit_scale(c));
    std::printf("absorbed against expanded keys and values: %.1e; with the cache in bf16: %.1e\n", absorbed,
                rounded);
    std::printf("a token keeps %td numbers, in plain heads %td (%.1f times as many)\n", cache.width(), plain,
                static_cast<double>(plain) / static_cast<double>(cache.width()));

    // Sixteen tokens after the first four are removed, and later ones move back by sixteen positions.
    const auto latent_before = cache.latents().at(0, 20, 0)[0],
               key_before = cache.shared_keys().at(0, 20, 0)[0];
    cache.erase(4, 16);
    cache.shift(4, cache.tokens() - 4, -16);
    const auto latent_after = cache.latents().at(0, 4, 0)[0], key_after = cache.shared_keys().at(0, 4, 0)[0];
    std::printf("after a shift by 16: latent %.6f -> %.6f, shared key %.6f -> %.6f\n",
                static_cast<double>(latent_before), static_cast<double>(latent_after),
                static_cast<double>(key_before), static_cast<double>(key_after));
    return absorbed < 1e-4 && rounded < 5e-2 && latent_before == latent_after && key_before != key_after ? 0
                                                                                                         : 1;
}
