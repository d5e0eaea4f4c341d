// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/generation.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;

constexpr rw::index hidden = 10, kv_heads = 2, channels = 4, width = 8, rank = 3, taps = 3, heads = 4,
                    tokens = 7;

struct weights {
    std::vector<double> down = noise(rank * hidden, 1), up = noise(width * rank, 2),
                        conv = noise(width * taps, 3), beta = noise(kv_heads * hidden, 4),
                        beta_bias = noise(kv_heads, 5), gate = noise(heads * hidden, 6),
                        gate_bias = noise(heads, 7), x = noise(tokens * hidden, 8);
    path::generator_config config{.hidden = hidden,
                                  .kv_heads = kv_heads,
                                  .channels = channels,
                                  .heads = heads,
                                  .rank = rank,
                                  .conv = taps};
    path::generator_weights<double> spans() const {
        return {down, up, conv, beta, beta_bias, gate, gate_bias};
    }
};
struct made {
    std::vector<double> w, beta, gate;
};
made generate(const weights& s, rw::index first = 0, rw::index count = tokens,
              std::vector<rw::index> ends = {}, path::generator_state<double>* state = nullptr) {
    made m{std::vector<double>(static_cast<std::size_t>(count * width)),
           std::vector<double>(static_cast<std::size_t>(count * kv_heads)),
           std::vector<double>(static_cast<std::size_t>(count * heads))};
    path::transform_generator<double>(s.config, s.spans())
        .fill_transforms(std::span(s.x).subspan(static_cast<std::size_t>(first * hidden),
                                                static_cast<std::size_t>(count * hidden)),
                         {m.w, m.beta, m.gate}, ends, state);
    return m;
}

}  // namespace

TEST_CASE("path generation: written out loop by loop", "[path][generation]") {
    const weights s;
    const made got = generate(s);
    const auto at = [](const std::vector<double>& x, rw::index i) { return x[static_cast<std::size_t>(i)]; };
    std::vector<double> u(static_cast<std::size_t>(tokens * width));
    for (rw::index t = 0; t < tokens; ++t)
        for (rw::index c = 0; c < width; ++c)
            for (rw::index r = 0; r < rank; ++r)
                for (rw::index i = 0; i < hidden; ++i)
                    u[static_cast<std::size_t>(t * width + c)] +=
                        at(s.up, c * rank + r) * at(s.down, r * hidden + i) * at(s.x, t * hidden + i);
    for (rw::index t = 0; t < tokens; ++t) {
        std::vector<double> y;
        for (rw::index c = 0; c < width; ++c) {
            double sum = 0;
            for (rw::index tap = 0; tap < taps; ++tap)
                if (t - taps + 1 + tap >= 0)
                    sum += at(s.conv, c * taps + tap) * at(u, (t - taps + 1 + tap) * width + c);
            y.push_back(sum / (1 + std::exp(-sum)));
        }
        for (rw::index h = 0; h < kv_heads; ++h) {
            double square = 1e-6, logit = at(s.beta_bias, h);
            for (rw::index c = 0; c < channels; ++c)
                square += y[static_cast<std::size_t>(h * channels + c)] *
                          y[static_cast<std::size_t>(h * channels + c)];
            for (rw::index c = 0; c < channels; ++c)
                CHECK(
                    at(got.w, (t * kv_heads + h) * channels + c) ==
                    Approx(y[static_cast<std::size_t>(h * channels + c)] / std::sqrt(square)).margin(1e-12));
            for (rw::index i = 0; i < hidden; ++i)
                logit += at(s.beta, h * hidden + i) * at(s.x, t * hidden + i);
            CHECK(at(got.beta, t * kv_heads + h) == Approx(2 / (1 + std::exp(-logit))).margin(1e-12));
        }
        for (rw::index h = 0; h < heads; ++h) {
            double logit = at(s.gate_bias, h);
            for (rw::index i = 0; i < hidden; ++i)
                logit += at(s.gate, h * hidden + i) * at(s.x, t * hidden + i);
            CHECK(at(got.gate, t * heads + h) == Approx(-std::log1p(std::exp(-logit))).margin(1e-12));
        }
    }
}

TEST_CASE("path generation: decoding goes on where the prefill ended", "[path][generation]") {
    const weights s;
    const made whole = generate(s);
    for (rw::index cut : {1, 2, 5}) {
        path::generator_state<double> state;
        made parts = generate(s, 0, cut, {}, &state);
        for (rw::index t = cut; t < tokens; ++t) {
            const made one = generate(s, t, 1, {}, &state);
            parts.w.insert(parts.w.end(), one.w.begin(), one.w.end());
        }
        CHECK(worst(parts.w, whole.w) < 1e-14);
    }
}

TEST_CASE("path generation: the convolution does not cross sequences", "[path][generation][ragged]") {
    const weights s;
    const made packed = generate(s, 0, tokens, {3, 7});
    const made one = generate(s, 0, 3), two = generate(s, 3, 4);
    std::vector<double> both = one.w;
    both.insert(both.end(), two.w.begin(), two.w.end());
    CHECK(worst(packed.w, both) < 1e-14);
}

TEST_CASE(
    "path generation: zeros give the identity, far logits no NaN, a full projection without a convolution",
    "[path][generation]") {
    weights s;
    std::fill(s.conv.begin(), s.conv.end(), 0.0);
    for (double v : generate(s).w) CHECK(v == 0);
    for (double& v : s.beta) v *= 1e5;
    for (double& v : s.gate) v *= 1e5;
    const made far = generate(s);
    for (double v : far.beta) CHECK((v >= 0 && v <= 2));
    for (double v : far.gate) CHECK((v <= 0 && std::isfinite(v)));

    weights full;
    full.config.rank = 0;
    full.config.conv = 0;
    full.up = noise(width * hidden, 12);
    full.down.clear();
    full.conv.clear();
    const made plain = generate(full);
    double u = 0, square = 1e-6;
    for (rw::index c = 0; c < channels; ++c) {
        double sum = 0;
        for (rw::index i = 0; i < hidden; ++i)
            sum += full.up[static_cast<std::size_t>(c * hidden + i)] * full.x[static_cast<std::size_t>(i)];
        if (c == 1) u = sum;
        square += sum * sum;
    }
    CHECK(plain.w[1] == Approx(u / std::sqrt(square)).epsilon(1e-12));
}

TEST_CASE("path generation: f32 is close to f64", "[path][generation]") {
    const weights s;
    const made wide = generate(s);
    const auto down = as<float>(s.down), up = as<float>(s.up), conv = as<float>(s.conv),
               beta = as<float>(s.beta), bias = as<float>(s.beta_bias), x = as<float>(s.x);
    auto config = s.config;
    config.heads = 0;
    std::vector<float> w(wide.w.size()), b(wide.beta.size());
    path::transform_generator<float>(
        config, {.down = down, .up = up, .conv = conv, .beta_weight = beta, .beta_bias = bias})
        .fill_transforms(x, {.w = w, .beta = b});
    CHECK(worst(widened(w), wide.w) < 1e-5);
    CHECK(worst(widened(b), wide.beta) < 1e-5);
}

TEST_CASE("path generation: what does not fit is refused with its value", "[path][generation][errors]") {
    const auto with = [](auto change) {
        weights s;
        change(s);
        return refusal([&] { generate(s); });
    };
    CHECK(with([](weights& s) { s.down.pop_back(); }) ==
          "path::transform_generator: down must hold rank * hidden numbers, got 29");
    CHECK(with([](weights& s) { s.config.hidden = 0; }) ==
          "path::transform_generator: hidden must be > 0, got 0");
    CHECK(with([](weights& s) { s.config.epsilon = 0; }) ==
          "path::transform_generator: epsilon must be > 0, got 0");
    CHECK(with([](weights& s) { s.conv.clear(); }) ==
          "path::transform_generator: conv must hold kv_heads * channels * taps numbers, got 0");
    CHECK(refusal([] {
              path::transform_generator<double>(
                  {.hidden = support::huge(62), .kv_heads = 4, .channels = 1, .rank = 0, .conv = 0}, {});
          }).starts_with("path::transform_generator: sizes must fit"));
    CHECK(refusal([] {
              path::transform_generator<double>({.hidden = 1,
                                                 .kv_heads = support::huge(40),
                                                 .channels = support::huge(40),
                                                 .rank = 0,
                                                 .conv = 0},
                                                {});
          }).starts_with("path::transform_generator: kv_heads * channels must fit"));
    const weights s;
    CHECK(refusal([&] {
              generate(s, 0, tokens, {3, 3, 7});
          }) == "path::fill_transforms: sequence_ends must rise and end at the last token, got 3");
    CHECK(refusal([&] { generate(s, 0, tokens, {3}); }) ==
          "path::fill_transforms: sequence_ends must rise and end at the last token, got 3");
}

TEST_CASE("path generation: parts make what one call makes", "[path][generation]") {
    const weights s;
    const path::transform_generator<double> generator(s.config, s.spans());
    for (const std::vector<rw::index>& ends : {std::vector<rw::index>{}, {3, 7}, {1, 2, 7}}) {
        const made whole = generate(s, 0, tokens, ends);
        for (rw::index parts : {2, 3, 7, 9}) {
            made m{std::vector<double>(whole.w.size(), 9.0), std::vector<double>(whole.beta.size(), 9.0),
                   std::vector<double>(whole.gate.size(), 9.0)};
            for (rw::index part = parts; part-- > 0;)
                generator.fill_transforms(s.x, {m.w, m.beta, m.gate}, ends, nullptr, {parts, part});
            CHECK(worst(m.w, whole.w) < 1e-14);
            CHECK(worst(m.beta, whole.beta) < 1e-14);
            CHECK(worst(m.gate, whole.gate) < 1e-14);
        }
    }
    path::generator_state<double> state;
    made m = generate(s);
    CHECK(refusal([&] {
              generator.fill_transforms(s.x, {m.w, m.beta, m.gate}, {}, &state, {2, 0});
          }) == "path::fill_transforms: parts must be 1 when a state is given, got 2");
    CHECK(refusal([&] {
              generator.fill_transforms(s.x, {m.w, m.beta, m.gate}, {}, nullptr, {2, 2});
          }) == "path::fill_transforms: part must be one of parts, got 2");
}

TEST_CASE("path generation: gradients by all weights and x are central differences",
          "[path][generation][gradient]") {
    const auto by_w = noise(tokens * width, 11), by_beta = noise(tokens * kv_heads, 12),
               by_gate = noise(tokens * heads, 13);
    const auto loss = [&](const weights& s, const std::vector<rw::index>& ends) {
        const made m = generate(s, 0, tokens, ends);
        double sum = 0;
        for (std::size_t i = 0; i < m.w.size(); ++i) sum += m.w[i] * by_w[i];
        for (std::size_t i = 0; i < m.beta.size(); ++i) sum += m.beta[i] * by_beta[i];
        for (std::size_t i = 0; i < m.gate.size(); ++i) sum += m.gate[i] * by_gate[i];
        return sum;
    };
    weights low, full, plain;
    full.config.rank = 0;
    full.down.clear();
    full.up = noise(width * hidden, 2);
    plain.config.conv = 0;
    plain.conv.clear();
    for (weights s : {low, full, plain})
        for (const std::vector<rw::index>& ends : {std::vector<rw::index>{}, {1, 3, 7}}) {
            CAPTURE(s.config.rank, s.config.conv, ends.size());
            weights got = s;
            for (auto* to : {&got.down, &got.up, &got.conv, &got.beta, &got.beta_bias, &got.gate,
                             &got.gate_bias, &got.x})
                std::fill(to->begin(), to->end(), 7.0);
            path::transform_generator<double>(s.config, s.spans())
                .fill_gradients(s.x,
                                {by_w, by_beta, by_gate, got.down, got.up, got.conv, got.beta, got.beta_bias,
                                 got.gate, got.gate_bias, got.x},
                                ends);
            for (auto of : {&weights::down, &weights::up, &weights::conv, &weights::beta, &weights::beta_bias,
                            &weights::gate, &weights::gate_bias, &weights::x}) {
                std::vector<double> slopes;
                for (std::size_t i = 0; i < (s.*of).size(); ++i) {
                    constexpr double h = 1e-3;
                    double& x = (s.*of)[i];
                    const double at = x;
                    const auto moved = [&](double by) {
                        x = at + by;
                        const double value = loss(s, ends);
                        x = at;
                        return value;
                    };
                    slopes.push_back((8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) /
                                     (12 * h));
                }
                CHECK(worst(got.*of, slopes) < 1e-7);
            }
        }
    weights s;
    std::vector<double> few(5);
    CHECK(refusal([&] {
              path::transform_generator<double>(s.config, s.spans())
                  .fill_gradients(s.x, {.w = by_w, .beta = by_beta, .conv = few});
          }) == "path::fill_gradients: conv must hold kv_heads * channels * taps numbers, got 5");
}
