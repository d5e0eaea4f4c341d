// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/banded.hpp>

#include <cstddef>
#include <limits>
#include <vector>

#include <ropewalk/attention/tiled.hpp>

#include "support/attention_case.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using support::as;
using support::attention_case;
using support::attention_sizes;
using support::noise;
using support::worst;

namespace {

/// Two copies of random queries and keys, and attention over them by its definition.
template <class T>
struct banded_case {
    attention_case<T> near, far;

    explicit banded_case(attention_sizes s) : near(s, 1), far(s, 11) {}

    attention::banded_copies<const T, const T> copies() const {
        return {near.q_view(), near.k_view(), far.q_view(), far.k_view()};
    }
    std::vector<double> defined(rw::index window, bool causal) const {
        const auto& s = near.sizes;
        auto chosen = near;  // its own scores are zero, those of the copies come as a bias
        for (T& x : chosen.q) x = T(0.f);
        const auto dot = [&](const attention_case<T>& c, rw::index b, rw::index h, rw::index n, rw::index j) {
            double sum = 0;
            for (rw::index i = 0; i < s.channels; ++i)
                sum += support::widened(c.q_view().at(b, n, h)[i]) *
                       support::widened(c.k_view().at(b, j, h / (s.heads / s.kv_heads))[i]);
            return sum / std::sqrt(double(s.channels));
        };
        const auto distance = [&s](rw::index n, rw::index j) { return s.keys - s.queries + n - j; };
        chosen.define(
            [&](rw::index, rw::index, rw::index n, rw::index j) { return !causal || distance(n, j) >= 0; },
            [&](rw::index b, rw::index h, rw::index n, rw::index j) {
                return dot(std::abs(distance(n, j)) < window ? near : far, b, h, n, j);
            });
        return chosen.out;
    }
    template <class Mask>
    std::vector<T> run(const Mask& mask, rw::index window,
                       const attention::tiled_options<rw::compute_t<T>>& options = {}) const {
        std::vector<T> out(std::size_t(near.sizes.count(near.sizes.out())));
        run_into(mask, window, options, out);
        return out;
    }
    template <class Mask>
    void run_into(const Mask& mask, rw::index window,
                  const attention::tiled_options<rw::compute_t<T>>& options, std::vector<T>& out) const {
        std::vector<std::byte> workspace(
            std::size_t(attention::attend_banded_workspace(copies(), near.v_view(), options)),
            std::byte{0xff});
        attention::attend_banded(mask, copies(), {.window = window}, near.v_view(),
                                 rw::heads_view<T>(out.data(), near.sizes.out()),
                                 std::span<std::byte>(workspace), options);
    }
};

template <class T>
std::vector<T> plain(const attention_case<T>& c, const std::vector<T>& values) {
    std::vector<T> out(std::size_t(c.sizes.count(c.sizes.out())));
    const rw::heads_view<const T> v(values.data(), c.sizes.v());
    std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), v)));
    attention::attend(attention::causal_mask{}, c.q_view(), c.k_view(), v,
                      rw::heads_view<T>(out.data(), c.sizes.out()), std::span<std::byte>(workspace));
    return out;
}

const std::vector<attention_sizes> sizes{
    {.batches = 2,
     .queries = 130,
     .keys = 130,
     .heads = 4,
     .kv_heads = 2,
     .channels = 20,
     .value_channels = 12},
    {.queries = 1, .keys = 150, .heads = 8, .kv_heads = 2, .channels = 24, .value_channels = 16},
    {.queries = 40, .keys = 200, .heads = 2, .kv_heads = 1, .channels = 9, .value_channels = 5},
};

}  // namespace

TEST_CASE("banded attention: the distance chooses the copy, one softmax over both", "[attention][banded]") {
    for (const auto& s : sizes) {
        const banded_case<double> c(s);
        for (rw::index window : {0, 1, 2, 17, 64, 100, 1000}) {
            INFO(window << ", " << s.queries << " queries");
            CHECK(worst(c.run(attention::causal_mask{}, window), c.defined(window, true)) < 1e-13);
            CHECK(worst(c.run(attention::full_mask{}, window), c.defined(window, false)) < 1e-13);
            for (rw::index key_tile : {7, 300})
                CHECK(worst(c.run(attention::causal_mask{}, window, {.query_tile = 30, .key_tile = key_tile}),
                            c.defined(window, true)) < 1e-12);
        }
    }
}

TEST_CASE("banded attention: f32 and bf16", "[attention][banded]") {
    const auto check = [](auto tag, double bound) {
        using T = decltype(tag);
        for (const auto& s : sizes) {
            const banded_case<T> c(s);
            CHECK(worst(c.run(attention::causal_mask{}, 30), c.defined(30, true)) < bound);
        }
    };
    check(float{}, 3e-6);
    check(rw::bf16{}, 3e-6 + 1.7 * 0x1p-8);
}

TEST_CASE("banded attention: a window over everything has the near copies' bits, none the far ones'",
          "[attention][banded][reduces]") {
    for (const auto& s : sizes) {
        const banded_case<float> c(s);
        CHECK(c.run(attention::causal_mask{}, s.keys) == plain(c.near, c.near.v));
        CHECK(c.run(attention::causal_mask{}, rw::detail::limit_of_bits(60)) == plain(c.near, c.near.v));
        CHECK(c.run(attention::causal_mask{}, 0) == plain(c.far, c.near.v));
    }
}

TEST_CASE("banded attention: decode gives prefill's rows, parts give its bits", "[attention][banded]") {
    const banded_case<double> c(sizes[0]);
    const auto& s = c.near.sizes;
    const auto whole = c.run(attention::causal_mask{}, 33);
    std::vector<double> out(whole.size()), joined(whole.size());
    const rw::heads_view<double> to(out.data(), s.out());
    for (rw::index n = 0; n < s.queries; ++n) {
        const auto all = c.copies();
        const attention::banded_copies<const double, const double> step{
            all.near_q.token_slice(n, 1), all.near_k.token_slice(0, n + 1), all.far_q.token_slice(n, 1),
            all.far_k.token_slice(0, n + 1)};
        const auto v = c.near.v_view().token_slice(0, n + 1);
        std::vector<std::byte> workspace(std::size_t(attention::attend_banded_workspace(step, v)));
        attention::attend_banded(attention::causal_mask{}, step, {.window = 33}, v, to.token_slice(n, 1),
                                 std::span<std::byte>(workspace));
    }
    CHECK(worst(out, whole) < 1e-12);
    for (rw::index part = 0; part < 3; ++part)
        c.run_into(attention::causal_mask{}, 33, {.part = {3, part}}, joined);
    CHECK(joined == whole);
}

TEST_CASE("banded attention: hidden NaN stays hidden, in either copy", "[attention][banded]") {
    banded_case<double> c(sizes[0]);
    const auto& s = c.near.sizes;
    const auto clean = c.run(attention::causal_mask{}, 20);
    const rw::index key = 70, row = s.kv_heads * s.channels;
    c.near.k[std::size_t(key * row)] = c.far.k[std::size_t(key * row)] =
        std::numeric_limits<double>::quiet_NaN();
    const auto got = c.run(attention::causal_mask{}, 20);
    for (rw::index n = 0; n < s.queries; ++n) {
        const auto at = std::size_t(n * s.heads * s.value_channels);  // head 0 reads kv head 0
        CHECK(std::isnan(got[at]) == (n >= key));
        if (n < key) CHECK(got[at] == clean[at]);
    }
    // A NaN in the near copy of a key that is far from a query is not read into its score.
    banded_case<double> far_only(sizes[0]);
    far_only.near.k[std::size_t(key * row)] = std::numeric_limits<double>::quiet_NaN();
    const auto mixed = far_only.run(attention::causal_mask{}, 20);
    for (rw::index n = 0; n < s.queries; ++n)
        CHECK(std::isnan(mixed[std::size_t(n * s.heads * s.value_channels)]) == (n >= key && n < key + 20));
}

TEST_CASE("banded attention: memory does not grow with the tokens, what does not fit is refused",
          "[attention][banded]") {
    const rw::heads_view<const float> few(nullptr, 64, 8, 128), many(nullptr, 1 << 20, 8, 128);
    CHECK(attention::attend_banded_workspace(
              attention::banded_copies<const float, const float>{few, few, few, few}, few) ==
          attention::attend_banded_workspace(
              attention::banded_copies<const float, const float>{many, many, many, many}, many));
    const banded_case<float> c(sizes[2]);
    std::vector<float> out(std::size_t(c.near.sizes.count(c.near.sizes.out())));
    auto copies = c.copies();
    const auto v = c.near.v_view();
    const rw::heads_view<float> to(out.data(), c.near.sizes.out());
    std::vector<std::byte> workspace(std::size_t(attention::attend_banded_workspace(copies, v)));
    const std::span<std::byte> space(workspace);
    const attention::full_mask full;
    CHECK_REFUSES("attend_banded: window must be >= 0, got -1",
                  attention::attend_banded(full, copies, {.window = -1}, v, to, space));
    CHECK_REFUSES("attend_banded: workspace must hold attend_banded_workspace bytes, got 9",
                  attention::attend_banded(full, copies, {.window = 1}, v, to, space.first(9)));
    copies.far_k = copies.far_k.token_slice(0, 199);
    CHECK_REFUSES(
        "attend_banded: far_k must have near_k's extents: wanted [1, 200, 1, 9], got [1, 199, 1, 9]",
        attention::attend_banded(full, copies, {.window = 1}, v, to, space));
}
