// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/linear_chunk.hpp>

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;
namespace detail = ropewalk::ROPEWALK_ISA::detail;
using map = detail::scaled_feature_map<double>;
using state = detail::linear_attention_state<double>;
using chunk = detail::linear_chunk<double>;

namespace {

constexpr rw::index batches = 2, tokens = 70, heads = 2, channels = 10;

/// Keys, queries and values of two batches and two heads, and what is computed of them.
struct stream {
    rw::index width;
    std::vector<double> q = support::noise(batches * tokens * heads * channels, 1, {-0.5, 2}),
                        k = support::noise(batches * tokens * heads * channels, 2, {-0.5, 2}),
                        v = support::noise(batches * tokens * heads * width, 3);

    /// Features of some tokens of one head.
    static map of(const std::vector<double>& x, rw::index b, rw::index h, rw::index first, rw::index count) {
        map features(tokens, channels);
        features.fill(rw::half_split{},
                      slice(rw::heads_view<const double>(x.data(), {batches, tokens, heads, channels}), b, h,
                            first, count));
        return features;
    }
    rw::heads_view<const double> values() const { return {v.data(), {batches, tokens, heads, width}}; }
    template <class T>
    static rw::heads_view<T> slice(rw::heads_view<T> x, rw::index b, rw::index h, rw::index first,
                                   rw::index count) {
        return x.batch_slice(b, 1).head_slice(h, 1).token_slice(first, count);
    }
};

double worst_of(const rw::heads_view<double>& a, rw::index b, rw::index n, rw::index h,
                const std::vector<double>& want) {
    double worst = 0;
    for (std::size_t j = 0; j < want.size(); ++j)
        worst = std::max(worst, std::abs(a.at(b, n, h)[j] - want[j]));
    return worst;
}

}  // namespace

TEST_CASE("linear_chunk: a chunk is its tokens one by one, causal and not", "[attention][linear_attention]") {
    for (const rw::index width : {1, 5, 16, 37}) {
        const stream s{width};
        // Chunks of one token, of some and of as many as there can be; each goes on where the last one ended.
        for (const bool causal : {true, false}) {
            const rw::index b = 1, h = 1;
            const map all_keys = s.of(s.k, b, h, 0, tokens), all_queries = s.of(s.q, b, h, 0, tokens);
            const map other = s.of(s.q, 0, 0, 3, 1);
            chunk work(channels, width);
            state by_chunk(channels, width), by_token(channels, width);
            std::vector<double> got(s.v.size(), 99), want(static_cast<std::size_t>(width));
            const rw::heads_view<double> out(got.data(), {batches, tokens, heads, width});
            double worst = 0;
            rw::index first = 0;
            for (const rw::index count : {rw::index{1}, rw::index{5}, chunk::size}) {
                const map keys = s.of(s.k, b, h, first, count), queries = s.of(s.q, b, h, first, count);
                REQUIRE(queries.finite());
                REQUIRE(work.take(by_chunk, keys, s.slice(s.values(), b, h, first, count), causal));
                work.read(by_chunk, queries, s.slice(out, b, h, first, count), causal);
                if (causal) work.add(by_chunk);
                for (rw::index n = first; n < first + count && !causal; ++n)
                    by_token.take(all_keys.at(n), s.values().at(b, n, h));
                for (rw::index n = first; n < first + count; ++n) {
                    if (causal) by_token.take(all_keys.at(n), s.values().at(b, n, h));
                    by_token.read(all_queries.at(n), want.data());
                    worst = std::max(worst, worst_of(out, b, n, h, want));
                }
                first += count;
                // The state goes on as if it had taken its tokens one by one.
                std::vector<double> after(static_cast<std::size_t>(width));
                by_chunk.read(other.at(0), after.data());
                by_token.read(other.at(0), want.data());
                CHECK(support::worst(after, want) < 1e-12);
            }
            REQUIRE(first == tokens);
            CHECK(worst < 1e-12);
            CHECK(got[0] == 99);  // of another batch and head
        }
    }
}

TEST_CASE("linear_chunk: what a product could lose is refused, and nothing was taken",
          "[attention][linear_attention]") {
    const double bad = std::numeric_limits<double>::quiet_NaN();
    const rw::index width = 5, count = 8;
    const stream s{width};
    const map queries = s.of(s.q, 0, 0, 0, 1);
    const auto first_values = [](const stream& x) { return x.slice(x.values(), 0, 0, 0, count); };
    const auto refused = [&](const stream& wrong, bool causal) {
        chunk work(channels, width);
        state with(channels, width), without(channels, width);
        const map keys = wrong.of(wrong.k, 0, 0, 0, count), good = s.of(s.k, 0, 0, 0, 1);
        for (auto* each : {&with, &without}) each->take(good.at(0), s.values().at(0, 0, 0));
        const bool taken = work.take(with, keys, first_values(wrong), causal);
        std::vector<double> a(static_cast<std::size_t>(width)), b = a;
        with.read(queries.at(0), a.data());
        without.read(queries.at(0), b.data());
        CHECK((a == b) != taken);
        return !taken;
    };
    const std::size_t row = heads * channels, last = (count - 1) * row + channels - 1;
    for (const bool causal : {true, false}) {
        CHECK_FALSE(refused(s, causal));
        auto wrong = s;
        wrong.k[last] = bad;
        CHECK(refused(wrong, causal));
        wrong = s;
        wrong.v[static_cast<std::size_t>((count - 1) * heads * width + width - 1)] = bad;
        CHECK(refused(wrong, causal));
        wrong = s;
        wrong.k[static_cast<std::size_t>(count) * row] = bad;  // of the token after the chunk
        CHECK_FALSE(refused(wrong, causal));
    }
    // A power that rises inside the chunk by the bound and by more than it; only a causal chunk has scores.
    for (const double rise : {299.0, 301.0}) {
        auto wrong = s;
        for (std::size_t i = 0; i < s.k.size(); ++i) wrong.k[i] = -rise;
        for (rw::index c = 0; c < channels; ++c) wrong.k[last - static_cast<std::size_t>(c)] = 0;
        chunk work(channels, width);
        for (const bool causal : {true, false}) {
            state fresh(channels, width);
            CHECK(work.take(fresh, wrong.of(wrong.k, 0, 0, 0, count), first_values(s), causal) ==
                  (rise < 300 || !causal));
            CHECK(fresh.empty() == (rise > 300 && causal));
        }
    }
    auto wrong = s;
    wrong.q[last] = bad;
    CHECK_FALSE(wrong.of(wrong.q, 0, 0, 0, count).finite());
    CHECK(wrong.of(wrong.q, 0, 0, 0, count - 1).finite());
}
