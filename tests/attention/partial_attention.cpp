// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/partial_attention.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/plain_attention.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index tokens = 70, heads = 4, kv_heads = 2;

template <class T>
struct sequence {
    support::heads_buffer<T> q{{2, tokens, heads, 8}}, k{{2, tokens, kv_heads, 8}},
        v{{2, tokens, kv_heads, 5}};
    sequence() {
        q.fill(1);
        k.fill(2);
        v.fill(3);
    }
    /// The part of keys first .. first + count, causal over the whole sequence.
    auto part(rw::index first, rw::index count) {
        std::vector<std::uint8_t> seen;
        for (rw::index n = 0; n < tokens; ++n)
            for (rw::index j = first; j < first + count; ++j) seen.push_back(j <= n);
        return rw::make_partial_attention(q.view(), k.view().token_slice(first, count),
                                          v.view().token_slice(first, count), {.mask = seen});
    }
};

}  // namespace

TEMPLATE_TEST_CASE("partial attention: the parts of the keys join to the whole", "[attention][partial]",
                   float, double) {
    const double bound = std::is_same_v<TestType, double> ? 1e-13 : 3e-6;
    sequence<TestType> x;
    support::heads_buffer<TestType> want({2, tokens, heads, 5}), got({2, tokens, heads, 5}, 2);
    support::plain_attend(x.q.view(), x.k.view(), x.v.view(), want.view(), {.causal = true});
    std::vector<rw::partial_attention<TestType>> parts{x.part(0, 1), x.part(1, 40), x.part(41, 0),
                                                       x.part(41, 29)};
    rw::join_partial_attention(std::span<const rw::partial_attention<TestType>>(parts), got.view());
    const auto a = want.numbers(), b = got.numbers();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= bound);
    CHECK(got.canaries_alive());
}

TEST_CASE("partial attention: what a query does not see has no weight", "[attention][partial]") {
    sequence<double> x;
    const auto late = x.part(41, 29);
    CHECK(late.log_weight[40 * heads] == -std::numeric_limits<double>::infinity());
    CHECK(std::isfinite(late.log_weight[41 * heads]));
    // One key alone: the weight is its score.
    const auto first = x.part(0, 1);
    double score = 0;
    for (int c = 0; c < 8; ++c) score += x.q.view().at(1, 5, 3)[c] * x.k.view().at(1, 0, 1)[c];
    CHECK(first.log_weight[(tokens + 5) * heads + 3] == Approx(score / std::sqrt(8.0)));

    support::heads_buffer<double> out({2, tokens, heads, 5});
    const std::vector<rw::partial_attention<double>> only_late{late};
    rw::join_partial_attention(std::span<const rw::partial_attention<double>>(only_late), out.view());
    CHECK(out.view().at(0, 40, 0)[0] == 0);
    CHECK(out.view().at(0, 41, 0)[0] == Approx(x.v.view().at(0, 41, 0)[0]));
    rw::join_partial_attention(std::span<const rw::partial_attention<double>>(), out.view());
    CHECK(out.view().at(0, 60, 0)[0] == 0);
}

TEST_CASE("partial attention: a NaN is not lost, large scores do not overflow", "[attention][partial]") {
    sequence<double> x;
    x.k.view().at(0, 3, 0)[2] = std::nan("");
    x.k.each([](double& v) { v *= 500; });
    const std::vector<rw::partial_attention<double>> parts{x.part(0, 10), x.part(10, 60)};
    support::heads_buffer<double> out({2, tokens, heads, 5});
    rw::join_partial_attention(std::span<const rw::partial_attention<double>>(parts), out.view());
    CHECK(std::isnan(out.view().at(0, 20, 0)[0]));
    CHECK(std::isfinite(out.view().at(0, 2, 0)[0]));
    CHECK(std::isfinite(out.view().at(1, 69, 3)[4]));
}

TEST_CASE("partial attention: parts of another shape are refused", "[attention][partial]") {
    sequence<double> x;
    const std::vector<rw::partial_attention<double>> parts{x.part(0, 1)};
    support::heads_buffer<double> out({2, tokens, heads, 4});
    CHECK_REFUSES(
        "join_partial_attention: parts must have the shape of out, tokens, got 70",
        (rw::join_partial_attention(std::span<const rw::partial_attention<double>>(parts), out.view()), 0));
}

TEST_CASE("partial attention: a part shorter than its shape is refused, not read past its end",
          "[attention][partial]") {
    sequence<double> x;
    support::heads_buffer<double> out({2, tokens, heads, 5});
    const auto join = [&](rw::partial_attention<double> part) {
        const std::vector<rw::partial_attention<double>> parts{x.part(0, 1), std::move(part)};
        rw::join_partial_attention(std::span<const rw::partial_attention<double>>(parts), out.view());
        return 0;
    };
    CHECK(join(x.part(1, 1)) == 0);
    auto part = x.part(1, 1);
    part.out.pop_back();
    CHECK_REFUSES(
        "join_partial_attention: parts must have an out of batches * Lq * heads * channels numbers: "
        "wanted 2800, got " +
            std::to_string(part.out.size()),
        join(part));
    part = x.part(1, 1);
    part.log_weight.clear();
    CHECK_REFUSES(
        "join_partial_attention: parts must have a log_weight of batches * Lq * heads numbers: wanted 560, "
        "got 0",
        join(part));
    part.log_weight.resize(2 * tokens * heads + 1);
    CHECK_REFUSES(
        "join_partial_attention: parts must have a log_weight of batches * Lq * heads numbers: wanted 560, "
        "got " +
            std::to_string(part.log_weight.size()),
        join(part));
}
