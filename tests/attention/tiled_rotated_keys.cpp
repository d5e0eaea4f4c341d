// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled_rotated_keys.hpp>

#include <cstddef>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "support/attention_case.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using support::attention_case;
using support::attention_sizes;

namespace {

template <class T, class L, class R, class Mask>
std::vector<T> run(const attention_case<T>& c, const L& layout, const R& rows, const Mask& mask,
                   const attention::tiled_options<rw::compute_t<T>>& options = {}) {
    std::vector<T> out(std::size_t(c.sizes.count(c.sizes.out())), T(7.f));
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view(), options)));
    attention::attend_rotating_keys(mask, layout, c.q_view(), c.k_view(), rows, c.v_view(),
                                    rw::heads_view<T>(out.data(), c.sizes.out()), workspace, options);
    return out;
}
/// Keys rotated first, by the verb that everything else is tested against.
template <class T, class L, class R, class Mask>
std::vector<T> apart(attention_case<T> c, const L& layout, const R& rows, const Mask& mask) {
    rw::rotate(layout, rw::heads_view<T>(c.k.data(), c.sizes.k()), rows);
    std::vector<T> out(std::size_t(c.sizes.count(c.sizes.out())));
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view())));
    attention::attend(mask, c.q_view(), c.k_view(), c.v_view(), rw::heads_view<T>(out.data(), c.sizes.out()),
                      workspace);
    return out;
}

const attention_sizes sizes[] = {
    {.queries = 120, .keys = 150, .heads = 4, .kv_heads = 2, .channels = 16, .value_channels = 8},
    {.batches = 2, .queries = 1, .keys = 90, .heads = 8, .kv_heads = 2, .channels = 24, .value_channels = 24},
    {.batches = 3, .queries = 20, .keys = 20, .heads = 1, .kv_heads = 1, .channels = 6, .value_channels = 3}};

}  // namespace

TEMPLATE_TEST_CASE("tiled_rotated_keys: the bits of keys rotated first", "[attention][tiled_rotated_keys]",
                   float, double) {
    for (const auto& s : sizes) {
        const attention_case<TestType> c(s);
        const auto omega = rw::frequencies::geometric({.rotary_dim = s.channels});
        const auto table =
            rw::make_rotation_table<TestType>(omega, rw::position_ids::text(s.batches * s.keys, -5));
        for (const rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
            CHECK(run(c, layout, table, attention::causal_mask{}) ==
                  apart(c, layout, table, attention::causal_mask{}));
            CHECK(run(c, layout, table, attention::full_mask{}, {.query_tile = 7, .key_tile = 64}) ==
                  apart(c, layout, table, attention::full_mask{}));
        }
        // The positions of one sequence for every batch, tokens left alone, rows made on the fly.
        std::vector<std::int32_t> some;
        for (rw::index n = 0; n < s.keys; ++n) some.push_back(n % 3 == 1 ? -1 : std::int32_t(s.keys - 1 - n));
        const auto rows = table.rows(some).repeated(s.batches);
        CHECK(run(c, rw::half_split{}, rows, attention::causal_mask{}) ==
              apart(c, rw::half_split{}, rows, attention::causal_mask{}));
        const auto fly = rw::rows_on_the_fly(omega, some).repeated(s.batches);
        CHECK(run(c, rw::half_split{}, fly, attention::causal_mask{}) ==
              apart(c, rw::half_split{}, fly, attention::causal_mask{}));
    }
}

TEST_CASE("tiled_rotated_keys: rows of every kv head, a scheme's slice, a layer that rotates nothing",
          "[attention][tiled_rotated_keys]") {
    const auto& s = sizes[0];
    const attention_case<float> c(s);
    std::vector<double> omega(std::size_t(2 * 8));
    for (std::size_t i = 0; i < omega.size(); ++i) omega[i] = 0.01 * double(i + 1);
    const auto own =
        rw::make_rotation_table<float>(rw::spectrum::selected(omega, {}, 1, 2), rw::position_ids::text(150));
    CHECK(run(c, rw::half_split{}, own, attention::causal_mask{}) ==
          apart(c, rw::half_split{}, own, attention::causal_mask{}));
    const auto narrow = rw::frequencies::geometric({.rotary_dim = 8});
    const auto scheme =
        rw::make_fixed_scheme({.head_dim = 16, .first_channel = 4, .layout = rw::interleaved{}}, narrow);
    const auto rows = rw::make_rotation_table<float>(narrow, rw::position_ids::text(150));
    CHECK(run(c, scheme, rows, attention::causal_mask{}) == apart(c, scheme, rows, attention::causal_mask{}));
    rw::rotary_scheme none;
    none.head_dim = 16;
    none.rotates = false;
    std::vector<float> want(std::size_t(s.count(s.out())));
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view())));
    attention::attend(attention::causal_mask{}, c.q_view(), c.k_view(), c.v_view(),
                      rw::heads_view<float>(want.data(), s.out()), workspace);
    CHECK(run(c, none, rows, attention::causal_mask{}) == want);
}

TEST_CASE("tiled_rotated_keys: 16-bit keys are rotated without a rounding of their own",
          "[attention][tiled_rotated_keys]") {
    auto s = sizes[0];
    attention_case<rw::bf16> c(s);
    const auto table = rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = 16}),
                                                      rw::position_ids::text(150, 1000));
    // By its definition: the same keys as doubles, rotated by plain loops.
    attention_case<double> wide(s);
    wide.q = support::widened(c.q), wide.k = support::widened(c.k), wide.v = support::widened(c.v);
    for (rw::index n = 0; n < 150; ++n)
        for (rw::index h = 0; h < 2; ++h)
            for (rw::index i = 0; i < 8; ++i) {
                double& a = wide.k[std::size_t((n * 2 + h) * 16 + i)];
                double& b = wide.k[std::size_t((n * 2 + h) * 16 + i + 8)];
                const long double angle = (1000.0L + n) * std::pow(1e4L, -i / 8.0L), u = a, v = b;
                a = double(u * std::cos(angle) - v * std::sin(angle));
                b = double(u * std::sin(angle) + v * std::cos(angle));
            }
    wide.define([](rw::index, rw::index, rw::index n, rw::index j) { return j <= n + 30; });
    const double whole =
        support::worst(support::widened(run(c, rw::half_split{}, table, attention::causal_mask{})), wide.out);
    const double rounded = support::worst(
        support::widened(apart(c, rw::half_split{}, table, attention::causal_mask{})), wide.out);
    CAPTURE(whole, rounded);
    CHECK(whole < 0.011);  // the result's own rounding: half an ulp of bf16 at 2
    CHECK(whole <= rounded);
}

TEST_CASE("tiled_rotated_keys: a cached block is the same at any position, if queries move with it",
          "[attention][tiled_rotated_keys]") {
    const attention_case<double> c({.queries = 12, .keys = 12, .heads = 2, .kv_heads = 1, .channels = 8});
    const auto at = [&](double first) {
        auto moved = c;
        const auto table = rw::make_rotation_table<double>(rw::frequencies::geometric({.rotary_dim = 8}),
                                                           rw::position_ids::text(12, first));
        rw::rotate(rw::half_split{}, rw::heads_view<double>(moved.q.data(), moved.sizes.q()), table);
        return run(moved, rw::half_split{}, table, attention::causal_mask{});
    };
    CHECK(support::worst(at(0), at(4096)) < 1e-11);
}

TEST_CASE("tiled_rotated_keys: refuses rows that do not fit the keys",
          "[attention][tiled_rotated_keys][errors]") {
    const attention_case<float> c({.queries = 3, .keys = 6});
    const auto rows = [](rw::index channels, rw::index tokens) {
        return rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = channels}),
                                              rw::position_ids::text(tokens));
    };
    const auto fits = rows(8, 6), few = rows(8, 3), wide = rows(10, 6);
    CHECK(run(c, rw::half_split{}, fits, attention::causal_mask{}).size() == 48);
    CHECK_REFUSES("attend_rotating_keys: rows must be one per token (batches * tokens): wanted 6, got 3",
                  run(c, rw::half_split{}, few, attention::causal_mask{}));
    CHECK_REFUSES("attend_rotating_keys: channels must be twice the pairs of the rows: wanted 10, got 8",
                  run(c, rw::half_split{}, wide, attention::causal_mask{}));
}
