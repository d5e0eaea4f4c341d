// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/sparse_index.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

/// sum over heads of w relu(q . k) / sqrt(heads channels), of token i and key j.
template <class Q, class W>
long double score_of(const Q& q, const Q& k, const W& w, rw::index heads, rw::index d, rw::index i,
                     rw::index j) {
    long double sum = 0;
    for (rw::index h = 0; h < heads; ++h) {
        long double dot = 0;
        for (rw::index c = 0; c < d; ++c)
            dot += (long double)support::widened(q[(i * heads + h) * d + c]) * support::widened(k[j * d + c]);
        sum += w[i * heads + h] * std::max(0.0L, dot);
    }
    return sum / std::sqrt((long double)(heads * d));
}

}  // namespace

TEST_CASE("sparse_index: scores by their formula in long double", "[attention][sparse_index]") {
    const rw::index tokens = 5, keys = 7, heads = 3, d = 8;
    const auto q = support::noise(tokens * heads * d, 1), k = support::noise(keys * d, 2);
    const auto w = support::noise(tokens * heads, 3);
    const auto scores =
        sparse_index::make_scores<double>(heads_view<const double>(q.data(), tokens, heads, d),
                                          heads_view<const double>(k.data(), keys, 1, d), w);
    for (rw::index i = 0; i < tokens; ++i)
        for (rw::index j = 0; j < keys; ++j) {
            const long double want = score_of(q, k, w, heads, d, i, j);
            CHECK(scores[i * keys + j] == Approx(double(want)).margin(1e-15));
        }
}

TEST_CASE("sparse_index: scores of many heads, channels and keys in every type",
          "[attention][sparse_index]") {
    const auto check = []<class T>(T, double bound) {
        for (const rw::index heads : {1, 17, 64, 70})
            for (const rw::index d : {5, 32, 128}) {
                const rw::index tokens = 2, keys = 131;
                const auto q = support::as<T>(support::noise(tokens * heads * d, 1)),
                           k = support::as<T>(support::noise(keys * d, 2));
                const auto w = support::as<compute_t<T>>(support::noise(tokens * heads, 3));
                const auto scores =
                    sparse_index::make_scores<T>(heads_view<const T>(q.data(), tokens, heads, d),
                                                 heads_view<const T>(k.data(), keys, 1, d), w);
                for (rw::index i = 0; i < tokens; ++i)
                    for (rw::index j = 0; j < keys; ++j) {
                        const long double want = score_of(q, k, w, heads, d, i, j);
                        CHECK(std::abs(double(scores[i * keys + j] - want)) < bound);
                    }
            }
    };
    check(double(0), 1e-14);
    check(float(0), 5e-6);
    check(bf16(0.f), 5e-6);
}

TEST_CASE("sparse_index: decode over the chosen keys is attention under the choice's mask",
          "[attention][sparse_index]") {
    const rw::index keys = 50, heads = 4, d = 16;
    const auto q = support::noise(heads * d, 1), k = support::noise(keys * d, 2),
               v = support::noise(keys * d, 3);
    const auto scores = support::noise(keys, 4);
    const auto chosen = sparse_index::select(std::span<const double>(scores), keys,
                                             sparse_index::visible_tokens(1, keys - 3), 9);
    const auto rows = sparse_index::ascending_rows(chosen);
    CHECK(std::is_sorted(rows.begin(), rows.end()));
    REQUIRE(rows.size() == 9);
    CHECK(rows.back() < keys - 2);
    const heads_view<const double> qv(q.data(), 1, heads, d), kv(k.data(), keys, 1, d),
        vv(v.data(), keys, 1, d);
    std::vector<double> got(heads * d), want(heads * d);
    row_attention<double> attention({.heads = heads, .key_channels = d, .value_channels = d});
    CHECK(attention.attend(qv, kv, vv, heads_view<double>(got.data(), 1, heads, d),
                           {.scale = 0.25, .listed = rows.data(), .count = 9}));
    const auto mask = sparse_index::make_mask(chosen, 1, keys);
    for (rw::index h = 0; h < heads; ++h) {
        long double sum = 0;
        std::vector<long double> mean(d);
        for (rw::index j = 0; j < keys; ++j) {
            long double dot = 0;
            for (rw::index c = 0; c < d; ++c) dot += (long double)q[h * d + c] * k[j * d + c];
            const long double weight = mask[j] ? std::exp(dot / 4) : 0;
            sum += weight;
            for (rw::index c = 0; c < d; ++c) mean[c] += weight * v[j * d + c];
        }
        for (rw::index c = 0; c < d; ++c)
            CHECK(got[h * d + c] == Approx(double(mean[c] / sum)).margin(1e-14));
    }
    CHECK(sparse_index::ascending_rows(std::vector<rw::index>{-1, 5, 2, -1}) ==
          std::vector<std::int32_t>{2, 5});
    CHECK_REFUSES("sparse_index::ascending_rows: chosen must hold -1 or keys below 2^31, got -2",
                  sparse_index::ascending_rows(std::vector<rw::index>{-2}));
}

TEST_CASE("sparse_index: neither a shift of all positions nor a Hadamard matrix changes a score",
          "[attention][sparse_index]") {
    const rw::index tokens = 6, heads = 2, d = 16, rotary = 8;
    const auto w = support::noise(tokens * heads, 3);
    const auto run = [&](double from, bool spread) {
        auto q = support::noise(tokens * heads * d, 1), k = support::noise(tokens * d, 2);
        const heads_view<double> a(q.data(), tokens, heads, d), b(k.data(), tokens, 1, d);
        const auto rows = make_rotation_table<double>(frequencies::geometric({.rotary_dim = rotary}),
                                                      position_ids::text(tokens, from));
        rotate(half_split{}, a.channel_slice(0, rotary), rows);
        rotate(half_split{}, b.channel_slice(0, rotary), rows);
        if (spread) sparse_index::hadamard(a), sparse_index::hadamard(b);
        return sparse_index::make_scores<double>(a, b, w);
    };
    CHECK(support::worst(run(0, false), run(777, false)) < 1e-13);
    CHECK(support::worst(run(0, false), run(0, true)) < 1e-14);
    std::vector<double> x{1, 2, 3, 4};
    sparse_index::hadamard(heads_view<double>(x.data(), 1, 1, 4));
    CHECK(x == std::vector<double>{5, -1, -2, 0});
}

TEST_CASE("sparse_index: the layer norm", "[attention][sparse_index]") {
    auto x = support::noise(3 * 8, 1);
    const auto before = x, w = support::noise(8, 2), b = support::noise(8, 3);
    sparse_index::normalize_keys(heads_view<double>(x.data(), 3, 1, 8), w, b);
    for (int n = 0; n < 3; ++n) {
        long double mean = 0, var = 0;
        for (int c = 0; c < 8; ++c) mean += before[n * 8 + c] / 8.0L;
        for (int c = 0; c < 8; ++c) var += (before[n * 8 + c] - mean) * (before[n * 8 + c] - mean) / 8;
        for (int c = 0; c < 8; ++c)
            CHECK(x[n * 8 + c] ==
                  Approx(double((before[n * 8 + c] - mean) / std::sqrt(var + 1e-6L) * w[c] + b[c]))
                      .epsilon(1e-13));
    }
}

TEST_CASE("sparse_index: the best visible keys, best first, ties to the earlier",
          "[attention][sparse_index]") {
    const std::vector<double> scores{9, 9, 9, 9, /**/ 0, 2, 9, 9, /**/ 1, 3, 1, 9, /**/ -1, 4, 0, 4};
    const auto visible = sparse_index::visible_tokens(4);
    const auto chosen = sparse_index::select(std::span<const double>(scores), 4, visible, 2);
    CHECK(chosen == std::vector<rw::index>{0, -1, 1, 0, 1, 0, 1, 3});
    CHECK(sparse_index::make_mask(chosen, 4, 4) ==
          std::vector<std::uint8_t>{1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1});
    // As many as there are: the causal mask.
    const auto all = sparse_index::make_mask(
        sparse_index::select(std::span<const double>(scores), 4, visible, 2048), 4, 4);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) CHECK(all[i * 4 + j] == (j <= i));
    CHECK(sparse_index::visible_windows(std::vector<std::int64_t>{0, 2, 3, 5, 7, 127}, 4) ==
          std::vector<rw::index>{0, 0, 1, 1, 2, 32});
}

TEST_CASE("sparse_index: refuses sizes that do not fit", "[attention][sparse_index][errors]") {
    std::vector<double> x(6), few(1);
    CHECK_REFUSES("hadamard: channels must be a power of two, got 6",
                  sparse_index::hadamard(heads_view<double>(x.data(), 1, 1, 6)));
    const heads_view<const double> q(x.data(), 1, 2, 3), k(x.data(), 2, 1, 3);
    CHECK_REFUSES("sparse_index::make_scores: weights must hold tokens * heads numbers: wanted 2, got 1",
                  sparse_index::make_scores<double>(q, k, few));
    CHECK_REFUSES("sparse_index::make_scores: k must have one head for all, got 2",
                  sparse_index::make_scores<double>(q, q, few));
    CHECK_REFUSES("sparse_index::normalize_keys: weight must hold channels numbers: wanted 3, got 1",
                  sparse_index::normalize_keys(heads_view<double>(x.data(), 2, 1, 3), few, few));
    CHECK_REFUSES("sparse_index::select: count must be >= 0, got -1",
                  sparse_index::select(std::span<const double>(x), 6, std::vector<rw::index>{1}, -1));
    CHECK_REFUSES("sparse_index::make_mask: chosen must hold -1 or keys, got 3",
                  sparse_index::make_mask(std::vector<rw::index>{3}, 1, 3));
    CHECK_REFUSES("visible_windows: rate must be >= 1, got 0", sparse_index::visible_windows({}, 0));
}
