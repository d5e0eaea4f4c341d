// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/adapters/phase_shift.hpp>

#include <cmath>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

constexpr ropewalk::index tokens = 70, heads = 2, dim = 8;  // more tokens than one block of the calibration

std::vector<double> numbers(std::size_t count, unsigned seed, double spread = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, spread);
    std::vector<double> v(count);
    for (double& x : v) x = normal(random);
    return v;
}
phase_shift::parameters<double> trained() {
    const std::size_t count = heads * dim * dim;
    return {.heads = heads, .head_dim = dim, .up = numbers(count, 5), .down = numbers(count, 6)};
}
template <class To>
phase_shift::parameters<To> as(const phase_shift::parameters<double>& p) {
    return {.heads = p.heads,
            .head_dim = p.head_dim,
            .up = {p.up.begin(), p.up.end()},
            .down = {p.down.begin(), p.down.end()}};
}

}  // namespace

TEST_CASE("phase_shift: the initial state is the exact identity", "[adapters][phase_shift]") {
    const auto before = numbers(tokens * heads * dim, 1);
    auto x = before;
    phase_shift::calibrate(phase_shift::make_initial<double>(heads, dim),
                           heads_view(x.data(), tokens, heads, dim));
    CHECK(x == before);
    const auto p = phase_shift::make_initial<float>(3, 16, 9);
    double most = 0;
    for (float w : p.down) most = std::max(most, std::abs(static_cast<double>(w)));
    CHECK(most <= 1.0 / 16);
    CHECK(most > 0.9 / 16);
    CHECK(p.up == std::vector<float>(3 * 256, 0.0f));
}

TEST_CASE("phase_shift: gain between a half and three halves, zero stays zero, tokens are alone",
          "[adapters][phase_shift]") {
    auto before = numbers(tokens * heads * dim, 2, 3);
    for (int c = 0; c < dim; ++c) before[5 * heads * dim + c] = 0;
    auto x = before;
    const auto p = trained();
    phase_shift::calibrate(p, heads_view(x.data(), tokens, heads, dim));
    double most = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        CHECK(std::abs(x[i]) <= 1.5 * std::abs(before[i]));
        CHECK(std::abs(x[i]) >= 0.5 * std::abs(before[i]));
        CHECK(x[i] * before[i] >= 0);
        most = std::max(most, std::abs(x[i] - before[i]));
    }
    CHECK(most > 0.1);
    std::vector<double> one(before.begin() + 66 * heads * dim, before.begin() + 67 * heads * dim);
    phase_shift::calibrate(p, heads_view(one.data(), 1, heads, dim));
    for (int c = 0; c < heads * dim; ++c) CHECK(one[c] == Approx(x[66 * heads * dim + c]).epsilon(1e-13));
}

TEST_CASE("phase_shift: f32 and bf16 data follow the f64 result within their rounding",
          "[adapters][phase_shift]") {
    const auto wide = numbers(tokens * heads * dim, 3);
    const auto p = trained();
    std::vector<bf16> half;
    for (double v : wide) half.push_back(bf16(static_cast<float>(v)));
    std::vector<double> want;
    for (bf16 v : half) want.push_back(static_cast<float>(v));
    std::vector<float> single(want.begin(), want.end());
    phase_shift::calibrate(p, heads_view(want.data(), tokens, heads, dim));
    phase_shift::calibrate(as<float>(p), heads_view(single.data(), tokens, heads, dim));
    phase_shift::calibrate(as<float>(p), heads_view(half.data(), tokens, heads, dim));
    for (std::size_t i = 0; i < want.size(); ++i) {
        CHECK(std::abs(single[i] - want[i]) <= 1e-5 * (1 + std::abs(want[i])));
        CHECK(std::abs(static_cast<float>(half[i]) - want[i]) <= (0x1p-8 + 1e-5) * std::abs(want[i]) + 1e-5);
    }
}

TEMPLATE_TEST_CASE("phase_shift: any head, a part of a register too, is the plain formula",
                   "[adapters][phase_shift]", double, float) {
    for (const ropewalk::index d : {1, 5, 32, 37}) {
        CAPTURE(d);
        const auto count = static_cast<std::size_t>(d * d);
        const phase_shift::parameters<double> p{
            .heads = 1, .head_dim = d, .up = numbers(count, 15, 0.5), .down = numbers(count, 16, 0.5)};
        const ropewalk::index n = GENERATE(3, 67);  // weights read where they are, and widened
        const auto wide = numbers(static_cast<std::size_t>(n * d), 17);
        std::vector<TestType> x(wide.begin(), wide.end());
        phase_shift::calibrate(as<TestType>(p), heads_view<TestType>(x.data(), n, 1, d));
        double off = 0;
        for (ropewalk::index row = 0; row < n; ++row)
            for (ropewalk::index c = 0; c < d; ++c) {
                double g = 0;
                for (ropewalk::index r = 0; r < d; ++r) {
                    double t = 0;
                    for (ropewalk::index k = 0; k < d; ++k)
                        t += wide[static_cast<std::size_t>(row * d + k)] *
                             p.up[static_cast<std::size_t>(k * d + r)];
                    g += t / (1 + std::exp(-t)) * p.down[static_cast<std::size_t>(r * d + c)];
                }
                const auto at = static_cast<std::size_t>(row * d + c);
                const double want = wide[at] * (1 + std::tanh(g) / 2);
                off = std::max(off, std::abs(static_cast<double>(x[at]) - want));
            }
        CHECK(off < (std::is_same_v<TestType, double> ? 1e-13 : 2e-5));
    }
}

TEST_CASE("phase_shift: 16-bit weights are the f32 ones that they stand for", "[adapters][phase_shift]") {
    const auto check = [&](auto kind) {
        using W = decltype(kind);
        const auto wide = trained();
        phase_shift::parameters<W> narrow{.heads = heads, .head_dim = dim};
        phase_shift::parameters<float> same{.heads = heads, .head_dim = dim};
        for (const auto& [from, to, back] :
             {std::tuple(&wide.up, &narrow.up, &same.up), std::tuple(&wide.down, &narrow.down, &same.down)})
            for (const double v : *from) {
                to->push_back(W(static_cast<float>(v)));
                back->push_back(static_cast<float>(to->back()));
            }
        const auto before = numbers(tokens * heads * dim, 21);
        std::vector<float> x(before.begin(), before.end()), y = x;
        phase_shift::calibrate(narrow, heads_view(x.data(), tokens, heads, dim));
        phase_shift::calibrate(same, heads_view(y.data(), tokens, heads, dim));
        CHECK(x == y);
    };
    check(bf16());
    check(f16());
}

TEST_CASE("phase_shift: queries and keys apart, strided views, then the scores keep their shift",
          "[adapters][phase_shift]") {
    const auto p = trained();
    const auto yarn = frequencies::yarn({.rotary_dim = dim, .factor = 16, .original_context = 4096});
    const auto score = [&](double m, double n) {
        auto qk = numbers(2 * heads * dim, 4);  // one token: q heads, then k heads, packed
        const heads_view<double> packed(qk.data(), 1, 2 * heads, dim);
        const auto q = packed.head_slice(0, heads), k = packed.head_slice(heads, heads);
        phase_shift::calibrate(p, q);
        phase_shift::calibrate(phase_shift::parameters<double>{heads, dim, p.down, p.up}, k);
        rotate(half_split{}, q, make_rotation_table<double>(yarn, position_ids::text(1, m)));
        rotate(half_split{}, k, make_rotation_table<double>(yarn, position_ids::text(1, n)));
        double sum = 0;
        for (int c = 0; c < heads * dim; ++c) sum += qk[c] * qk[heads * dim + c];
        return sum;
    };
    CHECK(score(70, 20) == Approx(score(5070, 5020)).epsilon(1e-10));
    CHECK(std::abs(score(70, 20) - score(70, 21)) > 1e-3);
}

TEST_CASE("phase_shift: moved weights do the same under the other layout", "[adapters][phase_shift]") {
    const auto p = trained();
    const auto moved = phase_shift::make_in_layout(p, half_split{}, interleaved{});
    const auto before = numbers(tokens * heads * dim, 8);
    const head_rows rows{.heads = heads, .head_dim = dim};
    const auto to_other = [&rows](const std::vector<double>& x) {
        std::vector<double> all;
        for (int n = 0; n < tokens; ++n) {
            const auto row = make_rows_in_layout<double>(std::span(x).subspan(n * heads * dim, heads * dim),
                                                         rows, half_split{}, interleaved{});
            all.insert(all.end(), row.begin(), row.end());
        }
        return all;
    };
    auto x = before, y = to_other(before);
    phase_shift::calibrate(p, heads_view(x.data(), tokens, heads, dim));
    phase_shift::calibrate(moved, heads_view(y.data(), tokens, heads, dim));
    const auto want = to_other(x);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == Approx(want[i]).epsilon(1e-12));
}

TEST_CASE("phase_shift: gradients agree with finite differences", "[adapters][phase_shift][gradient]") {
    const ropewalk::index few = GENERATE(5, 66);  // one block of tokens, and more
    auto p = trained();
    auto x = numbers(few * heads * dim, 11);
    const auto direction = numbers(few * heads * dim, 12);
    const auto loss = [&] {
        auto y = x;
        phase_shift::calibrate(p, heads_view(y.data(), few, heads, dim));
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * direction[i];
        return sum;
    };
    auto gradient = direction;
    phase_shift::parameters<double> of{heads, dim, std::vector<double>(p.up.size()),
                                       std::vector<double>(p.down.size())};
    phase_shift::backpropagate<double>(p, heads_view<const double>(x.data(), few, heads, dim),
                                       heads_view(gradient.data(), few, heads, dim), of);
    const auto slope = [&](double& at) {
        const double step = 1e-5, kept = at;
        at = kept + step;
        const double above = loss();
        at = kept - step;
        const double below = loss();
        at = kept;
        return (above - below) / (2 * step);
    };
    for (std::size_t i = 0; i < p.up.size(); ++i) {
        CHECK(of.up[i] == Approx(slope(p.up[i])).margin(2e-8));
        CHECK(of.down[i] == Approx(slope(p.down[i])).margin(2e-8));
    }
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(gradient[i] == Approx(slope(x[i])).margin(2e-8));
}

TEST_CASE("phase_shift: refuses sizes that disagree", "[adapters][phase_shift][errors]") {
    std::vector<float> x(24);
    const auto p = phase_shift::make_initial<float>(2, 4);
    CHECK_REFUSES("phase_shift::calibrate: head_dim must be the channels of x, got 4",
                  phase_shift::calibrate(p, heads_view(x.data(), 1, 2, 6)));
    CHECK_REFUSES("phase_shift::calibrate: heads must be the heads of x, got 2",
                  phase_shift::calibrate(p, heads_view(x.data(), 1, 3, 4)));
    auto p_short = p, p_wide = p;
    p_short.up.pop_back();
    p_wide.down.push_back(0);
    CHECK_REFUSES("phase_shift::make_in_layout: up must hold heads x head_dim x head_dim numbers, got 31",
                  phase_shift::make_in_layout(p_short, half_split{}, interleaved{}));
    CHECK_REFUSES("phase_shift::make_in_layout: down must hold heads x head_dim x head_dim numbers, got 33",
                  phase_shift::make_in_layout(p_wide, half_split{}, interleaved{}));
    CHECK_REFUSES("phase_shift::make_initial: head_dim must be >= 1, got 0",
                  phase_shift::make_initial<float>(1, 0));
}
