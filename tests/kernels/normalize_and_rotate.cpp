// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/normalize_and_rotate.hpp>

#include <string>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"
#include "support/rotation_oracle.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

namespace {

template <class C>
rw::rotation_table<C> table_of(rw::index pairs, rw::index tokens, double magnitude = 1) {
    std::vector<double> positions;
    for (rw::index n = 0; n < tokens; ++n) positions.push_back(static_cast<double>(n * n * 977 + 3));
    return rw::make_rotation_table<C>(
        rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(magnitude),
        rw::position_ids::from(positions));
}

template <class C>
std::vector<C> weights_of(rw::index count) {
    std::vector<C> w;
    for (rw::index i = 0; i < count; ++i)
        w.push_back(static_cast<C>(0.5 + 0.01 * static_cast<double>(i % 91)));
    return w;
}

/// The normalised token in long double: x / sqrt(mean(x^2) + eps) * weight * scale.
std::vector<double> normalized(const std::vector<double>& x, rw::index group,
                               const std::vector<double>& weight, double eps, double scale) {
    std::vector<double> out(x.size());
    for (std::size_t g = 0; g < x.size(); g += static_cast<std::size_t>(group)) {
        long double sum = 0;
        for (rw::index i = 0; i < group; ++i)
            sum += static_cast<long double>(x[g + std::size_t(i)]) * x[g + std::size_t(i)];
        const long double factor = scale / std::sqrt(sum / group + eps);
        for (rw::index i = 0; i < group; ++i)
            out[g + std::size_t(i)] =
                static_cast<double>(x[g + std::size_t(i)] * factor * weight[std::size_t(i) % weight.size()]);
    }
    return out;
}

/// Worst error over the promised bound.
template <class T, class C>
double worst(rw::pair_layout layout, heads_buffer<T>& after, const std::vector<double>& normed,
             const rw::rotation_table<C>& table, rw::index first) {
    const auto view = after.view();
    const auto rows = table.rows();
    double bound_used = 0;
    std::size_t at = 0;
    for (rw::index b = 0; b < view.batches(); ++b)
        for (rw::index n = 0; n < view.tokens(); ++n)
            for (rw::index h = 0; h < view.heads(); ++h, at += std::size_t(view.channels())) {
                std::vector<double> head(normed.begin() + std::ptrdiff_t(at),
                                         normed.begin() + std::ptrdiff_t(at) + view.channels());
                std::vector<double> slice(head.begin() + first, head.begin() + first + 2 * rows.pairs);
                const rw::index row = rows.row(b * view.tokens() + n);
                const auto turned =
                    support::rotated_head(layout, slice, rows.cos_at(row, h), rows.sin_at(row, h));
                std::vector<double> norm(head.size());
                for (std::size_t i = 0; i < head.size(); ++i) norm[i] = std::abs(head[i]);
                for (std::size_t i = 0; i < slice.size(); ++i) {
                    head[std::size_t(first) + i] = turned.value[i];
                    norm[std::size_t(first) + i] = turned.norm[i];
                }
                for (std::size_t i = 0; i < head.size(); ++i) {
                    const auto got = static_cast<double>(static_cast<rw::compute_t<T>>(view.at(b, n, h)[i]));
                    const double ulp =
                        std::is_same_v<C, double> ? budgets::ulp_f64(norm[i]) : budgets::ulp_f32(norm[i]);
                    const double budget = 12 * ulp + budgets::storage_rounding<T>(head[i]);
                    bound_used = std::max(bound_used, std::abs(got - head[i]) / budget);
                }
            }
    return bound_used;
}

}  // namespace

TEMPLATE_TEST_CASE("normalize_and_rotate: within its bound of norm then rotation, over the size grid",
                   "[kernels][normalize]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    constexpr rw::index n = rw::simd::lanes<C>;
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
        for (rw::index pairs :
             {rw::index(1), n / 2 + 1, n - 1, n, n + 1, 2 * n, 3 * n + 1, rw::index(64), rw::index(512)})
            for (const auto& [extra, first] : {std::pair(0, 0), std::pair(11, 0), std::pair(11, 5)})
                for (auto extent : {rw::norm_extent::head, rw::norm_extent::token}) {
                    const rw::index channels = 2 * pairs + extra, heads = 3;
                    const auto table = table_of<C>(pairs, 4);
                    heads_buffer<TestType> x({2, 2, heads, channels}, 3, 1);
                    const auto before = x.fill(7).numbers();
                    const bool whole = extent == rw::norm_extent::token;
                    const auto weight = weights_of<C>(channels * (whole ? heads : 1));
                    const rw::head_norm<C> norm(
                        {.heads = heads, .channels = channels, .eps = 1e-5, .extent = extent, .scale = 0.25},
                        weight);
                    rw::normalize_and_rotate(rw::layout_slice{.read = layout, .first_channel = first},
                                             x.view(), norm, table);
                    const auto normed = normalized(before, channels * (whole ? heads : 1),
                                                   std::vector<double>(weight.begin(), weight.end()),
                                                   static_cast<double>(C(1e-5)), 0.25);
                    INFO("pairs " << pairs << " extra " << extra << " first " << first);
                    CHECK(worst(layout, x, normed, table, first) <= 1);
                    CHECK(x.canaries_alive());
                }
}

TEMPLATE_TEST_CASE("normalize_and_rotate: f32 and f64 equal the norm alone followed by rotate, bit for bit",
                   "[kernels][normalize][fused]", double, float) {
    constexpr rw::index n = rw::simd::lanes<TestType>;
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
        for (rw::index pairs : {rw::index(1), n - 1, n, n + 1, 3 * n + 1, rw::index(64)})
            for (rw::index tokens : {1, 2, 7}) {
                const auto table = table_of<TestType>(pairs, tokens, 1.25);
                heads_buffer<TestType> q({1, tokens, 8, 2 * pairs}), k({1, tokens, 3, 2 * pairs}, 2, 1),
                    q2 = q.fill(1), k2 = k.fill(2);
                const rw::head_norm<TestType> norm_q({.channels = 2 * pairs},
                                                     weights_of<TestType>(2 * pairs));
                const rw::head_norm<TestType> norm_k(
                    {.channels = 2 * pairs, .form = rw::weight_form::factor_minus_one},
                    weights_of<TestType>(2 * pairs));
                rw::normalize_and_rotate(layout, q.view(), k.view(), norm_q, norm_k, table);
                // Zero pairs: the norm alone.
                const rw::rotation_table<TestType> no_pairs(tokens, 1, 0);
                rw::normalize_and_rotate(rw::half_split{}, q2.view(), norm_q, no_pairs);
                rw::normalize_and_rotate(rw::half_split{}, k2.view(), norm_k, no_pairs);
                rw::rotate(layout, q2.view(), k2.view(), table);
                CHECK(support::same_bits(q.dense(), q2.dense()));
                CHECK(support::same_bits(k.dense(), k2.dense()));
            }
}

TEST_CASE("normalize_and_rotate: Gemma's weight + 1 is the weight with 1 added", "[kernels][normalize]") {
    const auto table = table_of<float>(16, 2);
    heads_buffer<float> a({1, 2, 2, 32}), b = a.fill(1);
    std::vector<float> less(32, 0.25f), whole(32, 1.25f);
    rw::normalize_and_rotate(
        rw::half_split{}, a.view(),
        rw::head_norm<float>({.channels = 32, .form = rw::weight_form::factor_minus_one}, less), table);
    rw::normalize_and_rotate(rw::half_split{}, b.view(), rw::head_norm<float>({.channels = 32}, whole),
                             table);
    CHECK(support::same_bits(a.dense(), b.dense()));
    // Without a weight: every head has the mean square 1.
    rw::normalize_and_rotate(rw::half_split{}, b.view(), rw::head_norm<float>({.channels = 32}), table);
    double sum = 0;
    for (double x : b.numbers()) sum += x * x;
    CHECK(sum / 128 == Approx(1).epsilon(1e-5));
}

TEST_CASE("normalize_and_rotate: any split over threads and any alignment give the same bits",
          "[kernels][normalize]") {
    const auto table = table_of<float>(20, 3);
    for (auto extent : {rw::norm_extent::head, rw::norm_extent::token}) {
        const rw::head_norm<float> norm({.heads = 5, .channels = 44, .extent = extent},
                                        weights_of<float>(extent == rw::norm_extent::token ? 220 : 44));
        heads_buffer<rw::bf16> whole({1, 3, 5, 44}), split({1, 3, 5, 44}, 1, 1);
        whole.fill(4), split.fill(4);
        const rw::layout_slice slice{.read = rw::interleaved{}, .first_channel = 2};
        rw::normalize_and_rotate(slice, whole.view(), norm, table);
        for (rw::index part = 0; part < 7; ++part)
            rw::normalize_and_rotate(slice, split.view(), norm, table, {.part = {7, part}});
        CHECK(support::same_bits(whole.dense(), split.dense()));
    }
}

TEST_CASE("normalize_and_rotate: a single token is split by heads, unless they share one sum",
          "[kernels][normalize]") {
    const auto table = table_of<float>(8, 1);
    const rw::head_norm<float> of_head({.channels = 16}, weights_of<float>(16));
    const rw::head_norm<float> of_token({.heads = 8, .channels = 16, .extent = rw::norm_extent::token},
                                        weights_of<float>(128));
    const auto changed = [&](const rw::head_norm<float>& norm_q, const rw::head_norm<float>& norm_k) {
        heads_buffer<float> q({1, 1, 8, 16}), k({1, 1, 8, 16});
        q.fill(1), k.fill(2);
        const auto q_before = q.dense(), k_before = k.dense();
        rw::normalize_and_rotate(rw::half_split{}, q.view(), k.view(), norm_q, norm_k, table,
                                 {.part = {2, 0}});
        std::string heads;
        for (auto* pair : {&q, &k}) {
            const auto after = pair->dense();
            const auto& before = pair == &q ? q_before : k_before;
            for (std::ptrdiff_t h = 0; h < 8; ++h)
                heads +=
                    std::equal(after.begin() + 16 * h, after.begin() + 16 * h + 16, before.begin() + 16 * h)
                        ? '.'
                        : 'x';
        }
        return heads;
    };
    CHECK(changed(of_head, of_head) == "xxxx....xxxx....");
    // The heads of a sum are one part's; 1 token is that of one part alone.
    const std::string all = "xxxxxxxxxxxxxxxx", none = "................";
    for (const auto& heads : {changed(of_token, of_head), changed(of_head, of_token)})
        CHECK((heads == all || heads == none));
}

TEST_CASE("normalize_and_rotate: heads with rows of their own", "[kernels][normalize]") {
    rw::rotation_table<float> table(2, 3, 20);
    for (rw::index row = 0; row < 2; ++row)
        for (rw::index h = 0; h < 3; ++h)
            for (rw::index i = 0; i < 20; ++i) {
                const auto angle = static_cast<float>(1 + row + 3 * h) * 0.1f * static_cast<float>(i);
                table.cos_data(row, h)[i] = std::cos(angle);
                table.sin_data(row, h)[i] = std::sin(angle);
            }
    heads_buffer<float> x({1, 2, 3, 40}), want = x.fill(5);
    const rw::head_norm<float> norm({.channels = 40}, weights_of<float>(40));
    rw::normalize_and_rotate(rw::half_split{}, x.view(), norm, table);
    rw::normalize_and_rotate(rw::half_split{}, want.view(), norm, rw::rotation_table<float>(2, 1, 0));
    rw::rotate(rw::half_split{}, want.view(), table);
    CHECK(support::same_bits(x.dense(), want.dense()));
}

TEST_CASE("normalize_and_rotate: q and k of other batches or other extents are themselves",
          "[kernels][normalize]") {
    const auto table = table_of<float>(16, 3);
    const rw::head_norm<float> of_head({.channels = 32}, weights_of<float>(32));
    const rw::head_norm<float> of_token({.heads = 4, .channels = 32, .extent = rw::norm_extent::token},
                                        weights_of<float>(128));
    for (rw::index k_batches : {1, 3})
        for (rw::index parts : {1, 7}) {
            heads_buffer<float> q({1, 3, 4, 32}), k({k_batches, 3 / k_batches, 2, 32}), q_want = q.fill(1),
                                                                                        k_want = k.fill(2);
            for (rw::index part = 0; part < parts; ++part)
                rw::normalize_and_rotate(rw::interleaved{}, q.view(), k.view(), of_token, of_head, table,
                                         {.part = {parts, part}});
            rw::normalize_and_rotate(rw::interleaved{}, q_want.view(), of_token, table);
            rw::normalize_and_rotate(rw::interleaved{}, k_want.view(), of_head, table);
            CHECK(support::same_bits(q.dense(), q_want.dense()));
            CHECK(support::same_bits(k.dense(), k_want.dense()));
            CHECK(q.canaries_alive());
            CHECK(k.canaries_alive());
        }
}

TEST_CASE("normalize_and_rotate: untouched tokens keep their bits, empty views are no-ops",
          "[kernels][normalize]") {
    const auto table = table_of<float>(8, 3);
    heads_buffer<float> x({1, 3, 1, 16});
    x.fill(1);
    const auto before = x.dense();
    const rw::head_norm<float> norm({.channels = 16});
    const std::vector<int> rows{2, -1, 0};
    rw::normalize_and_rotate(rw::half_split{}, x.view(), norm, table.rows(rows));
    const auto after = x.dense();
    CHECK(std::equal(after.begin() + 16, after.begin() + 32, before.begin() + 16));
    CHECK_FALSE(std::equal(after.begin(), after.begin() + 16, before.begin()));
    rw::normalize_and_rotate(rw::half_split{}, rw::heads_view<float>(nullptr, 0, 1, 16), norm, table,
                             {.untouched = rw::untouched_tokens::normalised});
    rw::normalize_and_rotate(rw::half_split{}, rw::heads_view<float>(nullptr, 0, 1, 16),
                             rw::heads_view<float>(nullptr, 3, 0, 16), norm, norm, table);
}

TEMPLATE_TEST_CASE("normalize_and_rotate: untouched tokens that are to be normalised get the norm alone",
                   "[kernels][normalize]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    const auto table = table_of<C>(20, 3);
    const std::vector<int> rows{2, -1, 0, -1};
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                   rw::pair_layout::blocked_by(8)})
        for (auto extent : {rw::norm_extent::head, rw::norm_extent::token})
            for (rw::index parts : {1, 7}) {
                const bool whole = extent == rw::norm_extent::token;
                const rw::head_norm<C> norm({.heads = 5, .channels = 44, .extent = extent, .scale = 0.5},
                                            weights_of<C>(whole ? 220 : 44));
                heads_buffer<TestType> x({2, 2, 5, 44}, 3, 1), alone = x.fill(6), turned = x;
                for (rw::index part = 0; part < parts; ++part)
                    rw::normalize_and_rotate(
                        rw::layout_slice{.read = layout, .first_channel = 4}, x.view(), norm,
                        table.rows(rows),
                        {.part = {parts, part}, .untouched = rw::untouched_tokens::normalised});
                rw::normalize_and_rotate(rw::layout_slice{.read = layout, .first_channel = 4}, turned.view(),
                                         norm, table.rows(rows));
                rw::normalize_and_rotate(layout, alone.view(), norm, rw::rotation_table<C>(4, 1, 0));
                for (rw::index n = 0; n < 4; ++n) {
                    auto& want = rows[std::size_t(n)] < 0 ? alone : turned;
                    const auto token = [n](const std::vector<TestType>& all) {
                        return std::vector<TestType>(all.begin() + n * 220, all.begin() + (n + 1) * 220);
                    };
                    CHECK(support::same_bits(token(x.dense()), token(want.dense())));
                }
                CHECK(x.canaries_alive());
            }
}

TEST_CASE("normalize_and_rotate: a row of zeros stays zero, NaN stays in its head", "[kernels][normalize]") {
    const auto table = table_of<float>(8, 1);
    heads_buffer<float> x({1, 1, 3, 16}), clean({1, 1, 3, 16});
    x.fill(1);
    clean.fill(1);
    for (int c = 0; c < 16; ++c) x.view().at(0, 0, 0)[c] = 0;
    x.view().at(0, 0, 1)[3] = std::numeric_limits<float>::quiet_NaN();
    for (auto* one : {&x, &clean})
        rw::normalize_and_rotate(rw::half_split{}, one->view(), rw::head_norm<float>({.channels = 16}),
                                 table);
    for (int c = 0; c < 16; ++c) {
        CHECK(x.view().at(0, 0, 0)[c] == 0);
        CHECK(std::isnan(x.view().at(0, 0, 1)[c]));  // its norm is a NaN
        CHECK(x.view().at(0, 0, 2)[c] == clean.view().at(0, 0, 2)[c]);
    }
}

TEST_CASE("head_norm: refusals name the parameter", "[kernels][normalize][errors]") {
    const std::vector<float> w(15, 1);
    CHECK_REFUSES("head_norm: eps must be finite and > 0, got 0",
                  rw::head_norm<float>({.channels = 16, .eps = 0}));
    CHECK_REFUSES("head_norm: eps must be finite and > 0, got -1e-06",
                  rw::head_norm<float>({.channels = 16, .eps = -1e-6}));
    CHECK_REFUSES("head_norm: eps must be finite and > 0, got nan",
                  rw::head_norm<float>({.channels = 16, .eps = std::nan("")}));
    CHECK_REFUSES("head_norm: scale must be finite and not 0, got 0",
                  rw::head_norm<float>({.channels = 16, .scale = 0}));
    CHECK_REFUSES("head_norm: channels must be >= 1, got 0", rw::head_norm<float>(rw::norm_config{}));
    CHECK_REFUSES("head_norm: heads must be >= 1, got 0", rw::head_norm<float>({.heads = 0, .channels = 16}));
    CHECK_REFUSES("head_norm: weight must hold a number a channel of its extent, got 15",
                  rw::head_norm<float>({.channels = 16}, w));
}
