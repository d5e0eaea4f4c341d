// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/linear_attention.hpp>

#include <cmath>
#include <limits>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using attention::causality;

namespace {

template <class T>
struct problem {
    ropewalk::index batches = 2, tokens = 7, heads = 4, kv_heads = 2, channels = 8, width = 3;
    std::vector<T> q = make(heads * channels, 1), k = make(kv_heads * channels, 2),
                   v = make(kv_heads * width, 3);

    std::vector<T> make(ropewalk::index row, unsigned seed) const {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        std::vector<T> x(batches * tokens * row);
        for (T& e : x) e = static_cast<T>(normal(random));
        return x;
    }
    std::vector<T> run(causality order, double first_position, double step = 1) const {
        position_ids where;
        for (ropewalk::index b = 0; b < batches; ++b) where.append(text_run{tokens, first_position, step});
        std::vector<T> out(batches * tokens * heads * width);
        attention::fill_linear_attention<T>(
            interleaved{}, order,
            {.q = {q.data(), {batches, tokens, heads, channels}},
             .k = {k.data(), {batches, tokens, kv_heads, channels}},
             .v = {v.data(), {batches, tokens, kv_heads, width}},
             .out = {out.data(), {batches, tokens, heads, width}}},
            make_rotation_table<T>(frequencies::geometric({.rotary_dim = channels}), where));
        return out;
    }
};

void check_near(const std::vector<double>& a, const std::vector<double>& b, double bound) {
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) < bound);
}

}  // namespace

TEST_CASE("linear_attention: unmoved when all positions shift", "[attention][linear_attention]") {
    const problem<double> p;
    for (const auto order : {causality::causal, causality::bidirectional})
        check_near(p.run(order, 0), p.run(order, 5000), 1e-10);
}

TEST_CASE("linear_attention: without distances it is plain linear attention",
          "[attention][linear_attention][reduces]") {
    const problem<double> p;
    const auto got = p.run(causality::bidirectional, 9, 0);
    for (ropewalk::index b = 0; b < p.batches; ++b)
        for (ropewalk::index m = 0; m < p.tokens; ++m)
            for (ropewalk::index h = 0; h < p.heads; ++h) {
                std::vector<double> sum(p.width);
                double weight = 0;
                for (ropewalk::index n = 0; n < p.tokens; ++n) {
                    double w = 0;
                    for (ropewalk::index i = 0; i < p.channels; ++i)
                        w += attention::elu_plus_one(
                                 p.q[((b * p.tokens + m) * p.heads + h) * p.channels + i]) *
                             attention::elu_plus_one(
                                 p.k[((b * p.tokens + n) * p.kv_heads + h / 2) * p.channels + i]);
                    weight += w;
                    for (ropewalk::index j = 0; j < p.width; ++j)
                        sum[j] += w * p.v[((b * p.tokens + n) * p.kv_heads + h / 2) * p.width + j];
                }
                for (ropewalk::index j = 0; j < p.width; ++j)
                    CHECK(got[((b * p.tokens + m) * p.heads + h) * p.width + j] ==
                          Approx(sum[j] / weight).margin(1e-13));
            }
}

TEST_CASE("linear_attention: the last causal token sees what the bidirectional one sees",
          "[attention][linear_attention]") {
    const problem<double> p;
    const auto causal = p.run(causality::causal, 3), both = p.run(causality::bidirectional, 3);
    const ropewalk::index row = p.heads * p.width;
    for (ropewalk::index b = 0; b < p.batches; ++b)
        for (ropewalk::index i = 0; i < row; ++i) {
            const auto last = ((b + 1) * p.tokens - 1) * row + i;
            CHECK(causal[last] == Approx(both[last]).margin(1e-13));
            CHECK(causal[b * p.tokens * row + i] != both[b * p.tokens * row + i]);
        }
}

TEST_CASE("linear_attention: several chunks, causal and not, give the definition",
          "[attention][linear_attention]") {
    const problem<double> p{.tokens = 150};
    const problem<float> narrow{.tokens = 150};
    for (const auto order : {causality::causal, causality::bidirectional}) {
        const auto got = p.run(order, 9, 0);
        const auto f32 = narrow.run(order, 9, 0);
        double most = 0, most_f32 = 0;
        for (ropewalk::index b = 0; b < p.batches; ++b)
            for (ropewalk::index m = 0; m < p.tokens; ++m)
                for (ropewalk::index h = 0; h < p.heads; ++h) {
                    std::vector<double> sum(p.width);
                    double weight = 0;
                    for (ropewalk::index n = 0; n < (order == causality::causal ? m + 1 : p.tokens); ++n) {
                        double w = 0;
                        for (ropewalk::index i = 0; i < p.channels; ++i)
                            w += attention::elu_plus_one(
                                     p.q[((b * p.tokens + m) * p.heads + h) * p.channels + i]) *
                                 attention::elu_plus_one(
                                     p.k[((b * p.tokens + n) * p.kv_heads + h / 2) * p.channels + i]);
                        weight += w;
                        for (ropewalk::index j = 0; j < p.width; ++j)
                            sum[j] += w * p.v[((b * p.tokens + n) * p.kv_heads + h / 2) * p.width + j];
                    }
                    for (ropewalk::index j = 0; j < p.width; ++j) {
                        const auto at = ((b * p.tokens + m) * p.heads + h) * p.width + j;
                        most = std::max(most, std::abs(got[at] - sum[j] / weight));
                        most_f32 = std::max(most_f32, std::abs(f32[at] - sum[j] / weight));
                    }
                }
        CHECK(most < 1e-13);
        CHECK(most_f32 < 1e-5);
    }
    const auto causal = p.run(causality::causal, 3), both = p.run(causality::bidirectional, 3);
    const ropewalk::index row = p.heads * p.width;
    for (ropewalk::index i = 0; i < row; ++i)
        CHECK(causal[(p.tokens - 1) * row + i] == Approx(both[(p.tokens - 1) * row + i]).margin(1e-12));
}

TEST_CASE("linear_attention: f32 within its rounding", "[attention][linear_attention]") {
    const problem<double> p;
    problem<float> narrow;
    const auto want = p.run(causality::causal, 100);
    const auto got = narrow.run(causality::causal, 100);
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] - want[i]) < 1e-5);
}

TEST_CASE("linear_attention: one power of e for all features of a token, or of all keys, cancels",
          "[attention][linear_attention]") {
    for (const auto order : {causality::causal, causality::bidirectional}) {
        problem<float> p;
        for (float& e : p.q) e = -std::abs(e);
        for (float& e : p.k) e = -std::abs(e);
        const auto want = p.run(order, 100);
        for (float& e : p.q) e -= 60;
        for (float& e : p.k) e -= 60;  // the product of two features is e^-120, no f32
        const auto got = p.run(order, 100);
        for (std::size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] - want[i]) < 2e-5);
    }
}

TEST_CASE("linear_attention: one token sees its own value, however negative its activations",
          "[attention][linear_attention]") {
    for (const float deep : {-60.0f, -1000.0f, -1e38f}) {
        std::vector<float> q(4, deep), k(4, deep), v{1, 2}, out(2);
        attention::fill_linear_attention<float>(
            half_split{}, causality::causal,
            {.q = {q.data(), 1, 1, 4},
             .k = {k.data(), 1, 1, 4},
             .v = {v.data(), 1, 1, 2},
             .out = {out.data(), 1, 1, 2}},
            make_rotation_table<float>(frequencies::geometric({.rotary_dim = 4}), position_ids::text(1)));
        CHECK(out == v);
    }
}

TEST_CASE("linear_attention: features of very different sizes keep their share in f32",
          "[attention][linear_attention]") {
    // Keys rise and fall by hundreds of powers of e from channel to channel and token to token. In f64 the
    // products still have room, so the plain sums are an oracle there.
    constexpr ropewalk::index tokens = 6, channels = 4;
    std::mt19937 random(5);
    std::uniform_real_distribution<float> depth(-150, 2);
    std::vector<float> q(tokens * channels), k(tokens * channels), v(tokens), out(tokens);
    for (ropewalk::index n = 0; n < tokens; ++n)
        for (ropewalk::index i = 0; i < 2; ++i) {  // interleaved: one size a pair
            q[n * channels + 2 * i] = q[n * channels + 2 * i + 1] = depth(random);
            k[n * channels + 2 * i] = k[n * channels + 2 * i + 1] = depth(random);
        }
    for (float& e : v) e = depth(random);
    const auto ladder = frequencies::geometric({.rotary_dim = channels});
    for (const auto order : {causality::causal, causality::bidirectional}) {
        attention::fill_linear_attention<float>(
            interleaved{}, order,
            {.q = {q.data(), tokens, 1, channels},
             .k = {k.data(), tokens, 1, channels},
             .v = {v.data(), tokens, 1, 1},
             .out = {out.data(), tokens, 1, 1}},
            make_rotation_table<float>(ladder, position_ids::text(tokens)));
        for (ropewalk::index m = 0; m < tokens; ++m) {
            double sum = 0, weight = 0, terms = 0;
            for (ropewalk::index n = 0; n < (order == causality::causal ? m + 1 : tokens); ++n)
                for (ropewalk::index i = 0; i < 2; ++i) {
                    const double f = attention::elu_plus_one<double>(q[m * channels + 2 * i]) *
                                     attention::elu_plus_one<double>(k[n * channels + 2 * i]);
                    weight += 2 * f;
                    sum += 2 * f * std::cos((m - n) * ladder.omega(i)) * v[n];
                    terms += 2 * f * std::abs(v[n]);
                }
            REQUIRE(weight > 0);
            CHECK(std::abs(out[m] - sum / weight) < 1e-4 * terms / weight);
        }
    }
}

TEST_CASE("linear_attention: one feature is all there is, in the query's channel and not in the key's",
          "[attention][linear_attention]") {
    // Without a distance: numerator and denominator are both 2 e^-400.
    std::vector<float> q{0, 0, -400, -400}, k{-400, -400, 0, 0}, v{3}, out(1);
    attention::fill_linear_attention<float>(
        interleaved{}, causality::bidirectional,
        {.q = {q.data(), 1, 1, 4},
         .k = {k.data(), 1, 1, 4},
         .v = {v.data(), 1, 1, 1},
         .out = {out.data(), 1, 1, 1}},
        make_rotation_table<float>(frequencies::geometric({.rotary_dim = 4}), position_ids::text(1)));
    CHECK(out[0] == Approx(3).epsilon(1e-6));
}

TEST_CASE("linear_attention: a key without features leaves no trace", "[attention][linear_attention]") {
    const float none = -std::numeric_limits<float>::infinity();
    std::vector<float> q(12, 0.5f), k{none, none, none, none, 1, 0, -2, 3, none, none, none, none},
        v{7, 1, 9}, out(3);
    attention::fill_linear_attention<float>(
        half_split{}, causality::causal,
        {.q = {q.data(), 3, 1, 4},
         .k = {k.data(), 3, 1, 4},
         .v = {v.data(), 3, 1, 1},
         .out = {out.data(), 3, 1, 1}},
        make_rotation_table<float>(frequencies::geometric({.rotary_dim = 4}),
                                   position_ids::from(std::vector<int>{5, 5, 5})));
    CHECK(std::isnan(out[0]));  // 0 / 0
    CHECK(out[1] == Approx(1).epsilon(1e-6));
    CHECK(out[2] == Approx(1).epsilon(1e-6));
}

TEST_CASE("linear_attention: refuses shapes that disagree", "[attention][linear_attention][errors]") {
    std::vector<double> x(64), out(64);
    const auto table =
        make_rotation_table<double>(frequencies::geometric({.rotary_dim = 4}), position_ids::text(2));
    const auto call = [&](ropewalk::index q_heads, ropewalk::index k_heads, ropewalk::index channels) {
        attention::fill_linear_attention<double>(half_split{}, causality::causal,
                                                 {.q = {x.data(), 2, q_heads, channels},
                                                  .k = {x.data(), 2, k_heads, channels},
                                                  .v = {x.data(), 2, k_heads, 3},
                                                  .out = {out.data(), 2, q_heads, 3}},
                                                 table);
    };
    CHECK_REFUSES("linear_state::attend: heads of q must be a multiple of those of k, got 3", call(3, 2, 4));
    CHECK_REFUSES("linear_state::attend: channels must be twice the pairs of the rows: wanted 4, got 6",
                  call(2, 2, 6));
}

TEMPLATE_TEST_CASE("linear_state: pieces of any length, decode steps and one call agree",
                   "[attention][linear_attention]", double, float, bf16) {
    using T = TestType;
    using C = compute_t<T>;
    const double bound = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 2e-5 : 8e-3;
    constexpr ropewalk::index batches = 2, tokens = 150, heads = 4, kv_heads = 2, channels = 12, width = 5;
    const auto make = [](ropewalk::index row, unsigned seed) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        std::vector<T> x(batches * tokens * row);
        for (T& e : x) e = T(normal(random));
        return x;
    };
    auto q = make(heads * channels, 1), k = make(kv_heads * channels, 2), v = make(kv_heads * width, 3);
    const heads_view<T> qv(q.data(), {batches, tokens, heads, channels}),
        kv(k.data(), {batches, tokens, kv_heads, channels}), vv(v.data(), {batches, tokens, kv_heads, width});
    const auto table =
        make_rotation_table<C>(frequencies::geometric({.rotary_dim = channels}), position_ids::text(tokens));
    const auto rows = table.rows().repeated(batches);
    const auto number = [](const T& x) { return static_cast<double>(static_cast<C>(x)); };
    const attention::linear_sizes sizes{batches, kv_heads, channels, width, interleaved{}};
    std::vector<T> whole(batches * tokens * heads * width), pieces = whole;
    const heads_view<T> one(whole.data(), {batches, tokens, heads, width}), many(pieces.data(), one.shape);
    attention::linear_state<C> state(sizes);
    state.attend(qv, kv, vv, one, rows);
    CHECK(state.tokens() == tokens);
    state.clear();
    CHECK(state.tokens() == 0);
    ropewalk::index first = 0;
    for (const ropewalk::index count : {1, 1, 3, 64, 20, 1, 60}) {
        state.attend(qv.token_slice(first, count), kv.token_slice(first, count), vv.token_slice(first, count),
                     many.token_slice(first, count), rows.token_slice(first, count));
        first += count;
    }
    REQUIRE(first == tokens);
    double worst = 0;
    for (std::size_t i = 0; i < whole.size(); ++i)
        worst = std::max(worst, std::abs(number(whole[i]) - number(pieces[i])));
    CHECK(worst < bound);
    // What the last query sees is what a read of the appended keys gives.
    attention::linear_state<C> appended(sizes);
    appended.append(kv.token_slice(0, 70), vv.token_slice(0, 70), rows.token_slice(0, 70));
    appended.append(kv.token_slice(70, 80), vv.token_slice(70, 80), rows.token_slice(70, 80));
    std::vector<T> last(batches * heads * width);
    const heads_view<T> to(last.data(), {batches, 1, heads, width});
    appended.read(qv.token_slice(tokens - 1, 1), to, rows.token_slice(tokens - 1, 1));
    worst = 0;
    for (ropewalk::index b = 0; b < batches; ++b)
        for (ropewalk::index h = 0; h < heads; ++h)
            for (ropewalk::index c = 0; c < width; ++c)
                worst = std::max(worst,
                                 std::abs(number(to.at(b, 0, h)[c]) - number(one.at(b, tokens - 1, h)[c])));
    CHECK(worst < bound);
}

TEST_CASE("linear_state: refuses what does not fit", "[attention][linear_attention][errors]") {
    using attention::linear_sizes;
    const auto make = [](linear_sizes s) { return attention::linear_state<float>(s).tokens(); };
    CHECK_REFUSES("linear_state: channels must be even and >= 0, got 3", make({.channels = 3}));
    CHECK_REFUSES("linear_state: kv_heads must be >= 1, got 0", make({.kv_heads = 0}));
    CHECK_REFUSES("linear_state: value_channels must be >= 0, got -1", make({.value_channels = -1}));
    CHECK_REFUSES("linear_state: batches must be >= 0, got -1", make({.batches = -1}));
    attention::linear_state<float> state({.channels = 4, .value_channels = 2});
    std::vector<float> x(64);
    const auto table =
        make_rotation_table<float>(frequencies::geometric({.rotary_dim = 4}), position_ids::text(2));
    const heads_view<float> k(x.data(), 2, 1, 4), v(x.data(), 2, 1, 2);
    CHECK_REFUSES("linear_state::append: tokens of v must be those of k: wanted 2, got 1",
                  (state.append(k, v.token_slice(0, 1), table), 0));
    CHECK_REFUSES("linear_state::append: rows must name one row a token: wanted 1, got 2",
                  (state.append(k.token_slice(0, 1), v.token_slice(0, 1), table), 0));
    CHECK_REFUSES("linear_state::read: channels of out must be those of v: wanted 2, got 4",
                  (state.read(k, k, table), 0));
    CHECK(state.tokens() == 0);
}
