// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/retrieval_reference.hpp>

#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;

namespace {

rw::rotary_scheme plain_scheme(rw::index d) {
    return rw::make_fixed_scheme({.head_dim = d}, rw::frequencies::geometric({.rotary_dim = d}));
}

/// One layer with its reference over keys that are not rotated yet.
struct layer {
    rw::index tokens, kv_heads, heads, d = 8;
    std::vector<double> q, k, v;

    layer(rw::index tokens_, rw::index kv, rw::index group)
        : tokens(tokens_), kv_heads(kv), heads(kv * group) {
        const auto noise = [](rw::index count, unsigned seed) {
            const Eigen::VectorXd x = support::gaussian(count, 1, seed);
            return std::vector<double>(x.data(), x.data() + count);
        };
        q = noise(heads * d, 1);
        k = noise(tokens * kv * d, 2);
        v = noise(tokens * kv * d, 3);
    }
    rw::heads_view<const double> query() const { return {q.data(), 1, heads, d}; }
    rw::heads_view<const double> keys() const { return {k.data(), tokens, kv_heads, d}; }
    rw::heads_view<const double> values() const { return {v.data(), tokens, kv_heads, d}; }
    rw::retrieval_reference reference(rw::retrieval_options options) const {
        options.keys = rw::cached_keys::unrotated;
        return {query(), keys(), values(), plain_scheme(d), options};
    }
};

rw::index count(std::span<const std::uint8_t> chosen) { return std::count(chosen.begin(), chosen.end(), 1); }

}  // namespace

TEST_CASE("retrieval_reference: the best are the best, by hand", "[compression][retrieval]") {
    // Keys along one axis, a scheme that does not rotate: scores are 0, 5, 1, 5, 4, 3, 9.
    auto still = plain_scheme(2);
    still.rotates = false;
    const std::vector<float> q{1, 0}, k{0, 0, 5, 0, 1, 0, 5, 0, 4, 0, 3, 0, 9, 0}, v(14, 1.0f);
    const auto best = [&](rw::index wanted) {
        const rw::retrieval_reference r(rw::heads_view(q.data(), 1, 1, 2), rw::heads_view(k.data(), 7, 1, 2),
                                        rw::heads_view(v.data(), 7, 1, 2), still,
                                        {.window = 1, .sinks = 1, .top_count = wanted});
        return std::vector<std::uint8_t>(r.best().begin(), r.best().end());
    };
    using flags = std::vector<std::uint8_t>;
    CHECK(best(0) == flags{0, 0, 0, 0, 0, 0, 0});
    CHECK(best(1) == flags{0, 1, 0, 0, 0, 0, 0});  // of two equal ones the first
    CHECK(best(2) == flags{0, 1, 0, 1, 0, 0, 0});
    CHECK(best(3) == flags{0, 1, 0, 1, 1, 0, 0});
    CHECK(best(6) == flags{0, 1, 1, 1, 1, 1, 0});  // sinks and window are never picked
}

TEST_CASE("retrieval_reference: a choice is judged by what it finds and what it reads",
          "[compression][retrieval]") {
    const layer l(60, 2, 3);
    const rw::retrieval_options options{.window = 5, .sinks = 2, .top_count = 8};
    const auto r = l.reference(options);
    CHECK(count(r.best()) == 6 * 8);
    const auto best = r.judge(r.best());
    CHECK(best.recall == Approx(1).epsilon(1e-15));
    CHECK(best.rows_read >= 2 * (5 + 2 + 8));
    CHECK(best.rows_read <= 2 * (5 + 2 + 3 * 8));
    CHECK(best.output_error > 0);

    const auto recent = r.make_recent(), random = r.make_random(1);
    CHECK(count(recent) == 6 * 8);
    CHECK(count(random) == 6 * 8);
    CHECK(r.judge(recent).rows_read == 2 * (5 + 2 + 8));  // the same for every head
    for (rw::index h = 0; h < 6; ++h)
        for (rw::index n = 0; n < 60; ++n) {
            const auto at = std::size_t(h * 60 + n);
            CHECK(int(recent[at]) == (n >= 60 - 5 - 8 && n < 60 - 5));
            if (n < 2 || n >= 55) CHECK(random[at] == 0);
        }
    CHECK(random == r.make_random(1));
    CHECK(random != r.make_random(2));
    CHECK(std::vector<std::uint8_t>(random.begin(), random.begin() + 60) !=
          std::vector<std::uint8_t>(random.begin() + 60, random.begin() + 120));
    double chance = 0;
    for (unsigned seed = 0; seed < 200; ++seed) chance += r.judge(r.make_random(seed)).recall / 200;
    CHECK(chance == Approx(8.0 / 53).epsilon(0.05));

    const std::vector<std::uint8_t> all(6 * 60, 1), none(6 * 60, 0);
    CHECK(r.judge(all).output_error == 0);
    CHECK(r.judge(all).rows_read == 2 * 60);
    CHECK(r.judge(none).recall == 0);
    CHECK(r.judge(none).rows_read == 2 * (5 + 2));
}

TEST_CASE("retrieval_reference: it sees the step that retrieval_cache takes", "[compression][retrieval]") {
    for (rw::index group : {1, 4})
        for (rw::index wanted : {0, 3, 1000}) {
            CAPTURE(group, wanted);
            const layer l(50, 2, group);
            const rw::retrieval_options options{.heads = l.heads,
                                                .window = 4,
                                                .relative_position = 30,
                                                .sinks = 3,
                                                .top_count = wanted,
                                                .keys = rw::cached_keys::unrotated};
            const rw::vector_quantizer<double> words(support::gaussian(7, 8, 9),
                                                     Eigen::MatrixXd::Identity(8, 8));
            rw::retrieval_cache<double> cache({words, words}, plain_scheme(8), options);
            cache.append(l.keys());
            std::vector<std::uint8_t> top(std::size_t(l.heads * l.tokens));
            std::vector<double> out(std::size_t(l.heads * l.d));
            cache.attend(l.query(), l.keys(), l.values(), rw::heads_view(out.data(), 1, l.heads, l.d),
                         {.top = top});
            const auto r = l.reference(options);
            const auto seen = r.make_output(top);
            double worst = 0;
            for (std::size_t i = 0; i < out.size(); ++i) worst = std::max(worst, std::abs(out[i] - seen[i]));
            CHECK(worst < 1e-13);
            CHECK(r.judge(top).rows_read == cache.rows_read());
            if (wanted == 0) CHECK(r.judge(top).recall == 1);  // nothing to find
            if (wanted == 1000) {
                CHECK(r.judge(top).recall == 1);
                CHECK(r.judge(top).output_error < 1e-13);
            }
        }
}

TEST_CASE("retrieval_reference: rotated and unrotated keys are one cache", "[compression][retrieval]") {
    const layer l(40, 1, 2);
    const rw::retrieval_options options{.window = 3, .sinks = 1, .top_count = 5};
    const auto rope = plain_scheme(8);
    auto turned = l.k;
    const rw::heads_view keys(turned.data(), 40, 1, 8);
    rw::rotate(rope, keys, rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(40)));
    const rw::retrieval_reference a(l.query(), keys, l.values(), rope, options);
    const auto b = l.reference(options);
    CHECK(std::equal(a.best().begin(), a.best().end(), b.best().begin(), b.best().end()));
    CHECK(std::equal(a.output().begin(), a.output().end(), b.output().begin(), b.output().end()));
}

TEST_CASE("retrieval_reference: an output of zero has an absolute error", "[compression][retrieval]") {
    layer l(20, 1, 1);
    std::fill(l.v.begin(), l.v.end(), 0.0);
    const auto r = l.reference({.window = 2, .sinks = 1, .top_count = 3});
    CHECK(r.judge(r.make_recent()).output_error == 0);
}

TEST_CASE("retrieval_reference: what is refused, and how it says so", "[compression][retrieval][errors]") {
    const layer l(10, 2, 2);
    const auto rope = plain_scheme(8);
    const auto make = [&](auto q, auto k, auto v, rw::retrieval_options options = {}) {
        return rw::retrieval_reference(q, k, v, rope, options);
    };
    CHECK_THROWS_WITH(make(l.keys(), l.keys(), l.values()),
                      ContainsSubstring("q must be one query, tokens, got 10"));
    CHECK_THROWS_WITH(make(l.query(), l.keys().token_slice(0, 0), l.values()), ContainsSubstring("got 0"));
    CHECK_THROWS_WITH(make(l.query(), l.keys(), l.values().token_slice(0, 9)),
                      ContainsSubstring("v.tokens must equal k.tokens: wanted 10, got 9"));
    CHECK_THROWS_WITH(make(l.query().head_slice(0, 3), l.keys(), l.values()),
                      ContainsSubstring("multiple of k.heads, got 3"));
    CHECK_THROWS_WITH(make(l.query().head_slice(0, 0), l.keys(), l.values()),
                      ContainsSubstring("multiple of k.heads, got 0"));
    CHECK_THROWS_WITH(make(l.query(), l.keys().head_slice(0, 0), l.values()),
                      ContainsSubstring("multiple of k.heads, got 4"));
    CHECK_THROWS_WITH(make(l.query(), l.keys(), l.values().head_slice(0, 1)),
                      ContainsSubstring("v.heads must equal k.heads: wanted 2, got 1"));
    CHECK_THROWS_WITH(make(l.query(), l.keys().channel_slice(0, 6), l.values()),
                      ContainsSubstring("k.channels must be rope.head_dim: wanted 8, got 6"));
    CHECK_THROWS_WITH(make(l.query().channel_slice(0, 6), l.keys(), l.values()),
                      ContainsSubstring("q.channels must be rope.head_dim: wanted 8, got 6"));
    CHECK_THROWS_WITH(make(l.query(), l.keys(), l.values(), {.heads = 2}),
                      ContainsSubstring("heads must be 0 or q.heads, got 2"));
    CHECK_THROWS_WITH(make(l.query(), l.keys(), l.values(), {.window = -1}), ContainsSubstring("window"));
    auto bad = l;
    bad.k[3] = std::nan("");
    CHECK_THROWS_WITH(make(bad.query(), bad.keys(), bad.values()),
                      ContainsSubstring("scores must be finite"));
    const auto r = l.reference({});
    CHECK_THROWS_WITH(r.judge(std::vector<std::uint8_t>(39)),
                      ContainsSubstring("[heads, tokens], its size: wanted 40, got 39"));
}
