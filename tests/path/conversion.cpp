// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/conversion.hpp>

#include <ropewalk/path/backpropagate.hpp>
#include <ropewalk/path/prefill.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;
using numbers = std::vector<double>;

constexpr rw::index hidden = 12, heads = 4, kv_heads = 2, channels = 6, tokens = 24;
constexpr path::generator_config sizes{
    .hidden = hidden, .kv_heads = kv_heads, .channels = channels, .heads = heads, .rank = 3, .conv = 3};

struct transforms {
    numbers w = numbers(tokens * kv_heads * channels), beta = numbers(tokens * kv_heads),
            gate = numbers(tokens * heads);
};
transforms made(const path::converted_generator<double>& g, const numbers& x) {
    transforms t;
    path::transform_generator<double>(g.config, g.weights()).fill_transforms(x, {t.w, t.beta, t.gate});
    return t;
}

}  // namespace

TEST_CASE("path conversion: it starts near the identity, with directions of length 1", "[path][conversion]") {
    const auto x = noise(tokens * hidden, 1);
    for (rw::index rank : {0, 3})
        for (rw::index conv : {0, 3}) {
            auto config = sizes;
            config.rank = rank, config.conv = conv;
            const auto g = path::make_converted<double>(config, {.beta = 0.1, .open_gate = 0.99, .seed = 5});
            const transforms t = made(g, x);
            for (double b : t.beta) CHECK(b == Approx(0.1).epsilon(1e-12));
            for (double l : t.gate) CHECK(l == Approx(std::log(0.99)).epsilon(1e-12));
            for (rw::index r = 0; r < tokens * kv_heads; ++r) {
                double square = 0;
                for (rw::index c = 0; c < channels; ++c)
                    square += std::pow(t.w[static_cast<std::size_t>(r * channels + c)], 2);
                CHECK(square == Approx(1).epsilon(0.01));
            }
            CHECK(path::make_converted<double>(config, {.seed = 5}).up == g.up);
            CHECK(path::make_converted<double>(config, {.seed = 6}).up != g.up);
        }
    const auto large =
        path::make_converted<double>({.hidden = 400, .kv_heads = 4, .channels = 25, .rank = 0});
    double square = 0;
    for (double v : large.up) square += v * v;
    CHECK(square / 100 == Approx(1).epsilon(0.05));  // 400 inputs of variance 1 / 400
}

TEST_CASE("path conversion: training on the outputs of another attention brings it nearer",
          "[path][conversion]") {
    // The layer's own attention with positions: a decay of the logits with distance stands in for it.
    const auto x = noise(tokens * hidden, 1), q = noise(tokens * heads * channels, 2),
               k = noise(tokens * kv_heads * channels, 3), v = noise(tokens * kv_heads * channels, 4);
    const auto view = [](const numbers& of, rw::index h) {
        return rw::heads_view<const double>(of.data(), tokens, h, channels);
    };
    const numbers still(static_cast<std::size_t>(tokens * kv_heads * channels)), no_beta(tokens * kv_heads),
        decay(tokens * heads, -0.7);
    numbers want(q.size());
    path::attend(view(q, heads), view(k, kv_heads), view(v, kv_heads), view(still, kv_heads), no_beta,
                 rw::heads_view<double>(want.data(), tokens, heads, channels), {.log_gate = decay});
    auto g = path::make_converted<double>(sizes, {.open_gate = 0.8});
    numbers losses;
    for (int step = 0; step < 60; ++step) {
        const path::transform_generator<double> generator(g.config, g.weights());
        transforms t = made(g, x);
        numbers out(q.size()), d_out(q.size()), log_weight(tokens * heads), dq(q.size()), dk(k.size()),
            dv(v.size());
        transforms by;
        const path::attend_options<double> options{.log_gate = t.gate, .log_weight = log_weight};
        const rw::heads_view<double> o(out.data(), tokens, heads, channels);
        path::attend(view(q, heads), view(k, kv_heads), view(v, kv_heads), view(t.w, kv_heads), t.beta, o,
                     options);
        losses.push_back(0);
        for (std::size_t i = 0; i < out.size(); ++i) {
            d_out[i] = out[i] - want[i];
            losses.back() += d_out[i] * d_out[i] / 2;
        }
        std::vector<std::byte> memory(static_cast<std::size_t>(
            path::backpropagate_workspace(view(q, heads), view(k, kv_heads), view(v, kv_heads), options)));
        const auto to = [](numbers& of, rw::index h, rw::index c) {
            return rw::heads_view<double>(of.data(), tokens, h, c);
        };
        path::backpropagate(
            rw::attention::gradient_tensors{view(q, heads), view(k, kv_heads), view(v, kv_heads), o,
                                            view(d_out, heads), std::span<const double>(log_weight),
                                            to(dq, heads, channels), to(dk, kv_heads, channels),
                                            to(dv, kv_heads, channels)},
            {view(t.w, kv_heads), t.beta, to(by.w, kv_heads, channels), to(by.beta, kv_heads, 1),
             to(by.gate, heads, 1)},
            memory, options);
        auto d = g;
        generator.fill_gradients(x, {by.w, by.beta, by.gate, d.down, d.up, d.conv, d.beta_weight, d.beta_bias,
                                     d.gate_weight, d.gate_bias});
        for (auto of :
             {&path::converted_generator<double>::down, &path::converted_generator<double>::up,
              &path::converted_generator<double>::conv, &path::converted_generator<double>::beta_weight,
              &path::converted_generator<double>::beta_bias, &path::converted_generator<double>::gate_weight,
              &path::converted_generator<double>::gate_bias})
            for (std::size_t i = 0; i < (g.*of).size(); ++i) (g.*of)[i] -= 0.5 * (d.*of)[i];
    }
    CAPTURE(losses.front(), losses.back());
    CHECK(losses.back() < 0.5 * losses.front());
}

TEST_CASE("path conversion: what is refused, and how it says so", "[path][conversion][errors]") {
    const auto with = [](auto change, path::conversion_options options = {}) {
        auto config = sizes;
        change(config);
        return refusal([&] { path::make_converted<float>(config, options); });
    };
    CHECK(with([](auto& c) { c.hidden = 0; }) == "path::make_converted: hidden must be > 0, got 0");
    CHECK(with([](auto& c) { c.rank = -1; }) == "path::make_converted: rank must be >= 0, got -1");
    CHECK(with([](auto&) {}, {.beta = 2}) == "path::make_converted: beta must be in (0, 2), got 2");
    CHECK(with([](auto&) {}, {.open_gate = 1}) == "path::make_converted: open_gate must be in (0, 1), got 1");
}
