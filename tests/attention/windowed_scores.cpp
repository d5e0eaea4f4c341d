// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/windowed_scores.hpp>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/plain_attention.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index tokens = 9, heads = 4, kv_heads = 2, channels = 8;

struct copies {
    support::heads_buffer<double> near_q{{1, tokens, heads, channels}},
        near_k{{1, tokens, kv_heads, channels}}, far_q{{1, tokens, heads, channels}},
        far_k{{1, tokens, kv_heads, channels}}, v{{1, tokens, kv_heads, 6}};
    copies() {
        near_q.fill(1);
        near_k.fill(2);
        far_q.fill(3);
        far_k.fill(4);
        v.fill(5);
    }
    std::vector<double> scores(const rw::windowed_options& options) {
        std::vector<double> out(heads * tokens * tokens);
        rw::fill_windowed_scores(near_q.view(), near_k.view(), far_q.view(), far_k.view(),
                                 std::span<double>(out), options);
        return out;
    }
    /// What attends by these scores without holding them.
    void attend(rw::index window, support::heads_buffer<double>& to) {
        const rw::attention::banded_copies<double, double> both{near_q.view(), near_k.view(), far_q.view(),
                                                                far_k.view()};
        std::vector<std::byte> workspace(std::size_t(rw::attention::attend_banded_workspace(both, v.view())));
        rw::attention::attend_banded(rw::attention::causal_mask{}, both, {.window = window}, v.view(),
                                     to.view(), std::span(workspace));
    }
};

}  // namespace

TEST_CASE("windowed scores: the distance chooses, strictly", "[attention][windowed]") {
    copies x;
    const auto got = x.scores({.window = 3, .scale = 0.5});
    std::size_t at = 0;
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index n = 0; n < tokens; ++n)
            for (rw::index j = 0; j < tokens; ++j, ++at) {
                double want = 0;
                auto& q = n - j < 3 ? x.near_q : x.far_q;
                auto& k = n - j < 3 ? x.near_k : x.far_k;
                for (rw::index c = 0; c < channels; ++c)
                    want += q.view().at(0, n, h)[c] * k.view().at(0, j, h / 2)[c];
                CHECK(got[at] == Approx(j > n ? 0 : 0.5 * want).epsilon(1e-13).margin(1e-13));
            }
}

TEST_CASE("windowed scores: no window, all window, and without causality", "[attention][windowed][reduces]") {
    copies x;
    const auto all = x.scores({.window = tokens}), none = x.scores({.window = 0});
    copies swapped;
    swapped.far_q = x.near_q;
    swapped.far_k = x.near_k;
    CHECK(swapped.scores({.window = 0}) == all);
    CHECK(none != all);
}

TEST_CASE("windowed scores: without causality the window reaches both ways", "[attention][windowed]") {
    copies x;
    const auto near = x.scores({.window = 1000, .causal = false}),
               far = x.scores({.window = 0, .causal = false});
    for (std::size_t at = 0; at < near.size(); ++at) REQUIRE(near[at] != far[at]);
    for (const rw::index first : {0, -3, 5})
        for (const rw::index window : {1, 2, 4, 9}) {
            const auto got = x.scores({.window = window, .causal = false, .first_query = first});
            std::size_t at = 0;
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index n = 0; n < tokens; ++n)
                    for (rw::index j = 0; j < tokens; ++j, ++at)
                        REQUIRE(got[at] == (std::abs(first + n - j) < window ? near[at] : far[at]));
        }
}

TEST_CASE("windowed attention: does not swallow NaN, and a hidden one changes nothing",
          "[attention][windowed]") {
    copies x;
    support::heads_buffer<double> clean({1, tokens, heads, 6}), out({1, tokens, heads, 6});
    const auto attend = [&](support::heads_buffer<double>& to) { x.attend(3, to); };
    attend(clean);
    x.near_k.view().at(0, 4, 1)[2] = std::nan("");  // seen near, by the queries 4, 5 and 6 of heads 2 and 3
    attend(out);
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < 6; ++c) {
                const double got = out.view().at(0, n, h)[c];
                if (h >= 2 && n >= 4 && n <= 6) {
                    CHECK(std::isnan(got));
                } else {
                    CHECK(got == clean.view().at(0, n, h)[c]);
                }
            }
}

TEST_CASE("windowed scores: one decoded query stands at the end of the keys", "[attention][windowed]") {
    copies x;
    const auto all = x.scores({.window = 4});
    std::vector<double> last(heads * tokens);
    rw::fill_windowed_scores(x.near_q.view().token_slice(8, 1), x.near_k.view(),
                             x.far_q.view().token_slice(8, 1), x.far_k.view(), std::span<double>(last),
                             {.window = 4});
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index j = 0; j < tokens; ++j)
            CHECK(last[h * tokens + j] == all[(h * tokens + 8) * tokens + j]);
}

TEST_CASE("windowed scores: far keys at one distance do not change when the prefix moves",
          "[attention][windowed]") {
    // Windowed RoPE: queries near by position, far at distance 6; far keys are raw.
    const auto omega = rw::frequencies::geometric({.rotary_dim = channels});
    const auto scores_at = [&](double first) {
        copies x;
        x.far_q = x.near_q;
        x.far_k = x.near_k;
        const auto table = rw::make_rotation_table<double>(omega, rw::position_ids::text(tokens, first));
        const auto far = rw::make_rotation_table<double>(omega, rw::position_ids::text(1, 6));
        rw::rotate(rw::half_split{}, x.near_q.view(), x.near_k.view(), table);
        rw::rotate(rw::half_split{}, x.far_q.view(), rw::repeat_row(far, 0, tokens));
        return x.scores({.window = 3});
    };
    const auto here = scores_at(0), there = scores_at(1000);
    for (std::size_t i = 0; i < here.size(); ++i) CHECK(there[i] == Approx(here[i]).margin(1e-11));
    CHECK(here[5 * tokens] == there[5 * tokens]);  // a far score has no position in it
}

TEST_CASE("windowed attention: one softmax over near and far", "[attention][windowed]") {
    copies x;
    support::heads_buffer<double> out({1, tokens, heads, 6}), plain({1, tokens, heads, 6});
    x.attend(3, out);
    const auto s = x.scores({.window = 3});
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index n = 0; n < tokens; ++n)
            for (rw::index c = 0; c < 6; ++c) {
                double sum = 0, weight = 0;
                for (rw::index j = 0; j <= n; ++j) {
                    const double w = std::exp(s[(h * tokens + n) * tokens + j]);
                    sum += w * x.v.view().at(0, j, h / 2)[c];
                    weight += w;
                }
                CHECK(out.view().at(0, n, h)[c] == Approx(sum / weight).epsilon(1e-12).margin(1e-12));
            }
    // All near is plain causal attention.
    support::plain_attend(x.near_q.view(), x.near_k.view(), x.v.view(), plain.view(), {.causal = true});
    x.attend(tokens, out);
    const auto a = out.numbers(), b = plain.numbers();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-12).margin(1e-12));
}

TEST_CASE("windowed scores: sizes that disagree are refused", "[attention][windowed]") {
    copies x;
    std::vector<double> small(3);
    CHECK_REFUSES("fill_windowed_scores: window must be >= 0, got -1", x.scores({.window = -1}));
    for (const rw::index far_off : {PTRDIFF_MAX, PTRDIFF_MIN})
        CHECK_REFUSES("fill_windowed_scores: first_query must be within +-" + support::limit(53) + ", got " +
                          std::to_string(far_off),
                      x.scores({.window = 1, .first_query = far_off}));
    CHECK_REFUSES(
        "fill_windowed_scores: scores must hold batches * heads * Lq * Lk numbers: wanted 324, got 3",
        (rw::fill_windowed_scores(x.near_q.view(), x.near_k.view(), x.far_q.view(), x.far_k.view(),
                                  std::span<double>(small), {}),
         0));
    CHECK_REFUSES("fill_windowed_scores: far_k.tokens must be near_k's: wanted 9, got 8",
                  (rw::fill_windowed_scores(x.near_q.view(), x.near_k.view(), x.far_q.view(),
                                            x.far_k.view().token_slice(0, 8), std::span<double>(small), {}),
                   0));
    CHECK_REFUSES("fill_windowed_scores: far_q.heads must be near_q's: wanted 4, got 2",
                  (rw::fill_windowed_scores(x.near_q.view(), x.near_k.view(), x.far_q.view().head_slice(0, 2),
                                            x.far_k.view(), std::span<double>(small), {}),
                   0));
}
