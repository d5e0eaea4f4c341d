// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// PaTH attention from hidden states: make w and beta, prefill by blocks, continue token by token with a key
// cache that every step rewrites, and see the error of bf16 keys grow with the steps.
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/path.hpp>

namespace rw = ropewalk;

namespace {

constexpr rw::index hidden = 256, heads = 4, kv_heads = 2, channels = 64, prompt = 256, tokens = 512,
                    rank = 32;

std::vector<float> normal(rw::index count, unsigned seed, double width) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> draw(0, width);
    std::vector<float> x;
    for (rw::index i = 0; i < count; ++i) x.push_back(static_cast<float>(draw(engine)));
    return x;
}
template <class T>
auto rows(std::vector<T>& x, rw::index first, rw::index count, rw::index h) {
    return rw::heads_view<T>(x.data() + first * h * channels, count, h, channels);
}

}  // namespace

int main() {
    auto x = normal(tokens * hidden, 1, 1), q = normal(tokens * heads * channels, 2, 1);
    auto k = normal(tokens * kv_heads * channels, 3, 1), v = normal(tokens * kv_heads * channels, 4, 1);
    const rw::index width = kv_heads * channels;
    const auto down = normal(rank * hidden, 5, 1 / 16.0), up = normal(width * rank, 6, 1 / std::sqrt(32.0));
    const auto conv = normal(width * 3, 7, 1), beta_weight = normal(kv_heads * hidden, 8, 1 / 16.0);
    const rw::path::transform_generator<float> generator(
        {.hidden = hidden, .kv_heads = kv_heads, .channels = channels, .rank = rank},
        {.down = down, .up = up, .conv = conv, .beta_weight = beta_weight});
    std::vector<float> w(k.size()), beta(static_cast<std::size_t>(tokens * kv_heads)), out(q.size());
    generator.fill_transforms(x, {.w = w, .beta = beta});
    rw::path::attend(rows(q, 0, tokens, heads), rows(k, 0, tokens, kv_heads), rows(v, 0, tokens, kv_heads),
                     rows(w, 0, tokens, kv_heads), beta, rows(out, 0, tokens, heads));
    std::printf("PaTH: %td tokens, %td query heads on %td key heads of %td channels\n", tokens, heads,
                kv_heads, channels);

    const auto decode_on = [&]<class K>(K, const char* name) {
        std::vector<K> keys(k.size());
        std::vector<float> step(static_cast<std::size_t>(heads * channels));
        std::vector<float> scratch(
            static_cast<std::size_t>(rw::path::decode_scratch(tokens, heads, channels)));
        const auto betas = [&](rw::index first, rw::index count) {
            return std::span(beta).subspan(static_cast<std::size_t>(first * kv_heads),
                                           static_cast<std::size_t>(count * kv_heads));
        };
        rw::path::fill_key_cache(rows(k, 0, prompt, kv_heads), rows(w, 0, prompt, kv_heads), betas(0, prompt),
                                 rows(keys, 0, prompt, kv_heads));
        std::vector<float> values = v;
        double worst = 0;
        for (rw::index n = prompt; n < tokens; ++n) {
            rw::path::decode({.q = rows(q, n, 1, heads),
                              .k = rows(k, n, 1, kv_heads),
                              .transform = {rows(w, n, 1, kv_heads), betas(n, 1)},
                              .scale = 1 / std::sqrt(static_cast<float>(channels))},
                             rows(keys, 0, n + 1, kv_heads), rows(values, 0, n + 1, kv_heads),
                             rows(step, 0, 1, heads), scratch);
            for (std::size_t c = 0; c < step.size(); ++c)
                worst = std::max<double>(
                    worst, std::abs(step[c] - out[static_cast<std::size_t>(n * heads * channels) + c]));
        }
        std::printf(
            "%td decode steps on a cache of %s keys: off by at most %.1e from the blockwise prefill\n",
            tokens - prompt, name, worst);
        return worst;
    };
    const double f32 = decode_on(float{}, "f32"), bf16 = decode_on(rw::bf16{}, "bf16");
    std::printf("each step rounds the keys again: bf16 loses %.0f times what f32 does\n", bf16 / f32);
    return f32 < 1e-5 && bf16 < 0.1 ? 0 : 1;
}
