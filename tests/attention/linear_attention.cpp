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
    CHECK_REFUSES("fill_linear_attention: heads of q must be a multiple of those of k, got 3", call(3, 2, 4));
    CHECK_REFUSES("fill_linear_attention: channels must be twice the pairs of the rows, got 6",
                  call(2, 2, 6));
}
