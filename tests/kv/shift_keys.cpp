// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/shift_keys.hpp>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kv/append.hpp>

#include "support/budgets.hpp"
#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::cache_order;
using support::heads_buffer;

namespace {

using longs = std::vector<std::int64_t>;

/// Keys rotated at `positions` in the cache's slots 0, 1, ...
template <class T>
rw::cache_plan append_at(heads_buffer<T>& k, cache_buffer<T>& cache, const rw::spectrum& s,
                         const rw::position_ids& positions, const longs& slots) {
    const rw::append_call<T> call{.key = k.view(), .key_cache = cache.keys()};
    auto plan = rw::make_append_plan(call, slots);
    rw::append(rw::half_split{}, call, plan, rw::make_rotation_table<rw::compute_t<T>>(s, positions));
    return plan;
}

/// The largest distance between two caches' keys over ulp_f32 of the pair norm, half-split.
double distance_in_ulp(cache_buffer<float>& a, cache_buffer<float>& b, const rw::cache_plan& plan) {
    double worst = 0;
    auto x = a.keys(), y = b.keys();
    const rw::index half = x.shape.channels / 2;
    for (rw::index n = 0; n < plan.tokens(); ++n)
        for (rw::index h = 0; h < x.shape.heads; ++h)
            for (rw::index i = 0; i < half; ++i) {
                const float* u = x.at(plan.place(n).page, plan.place(n).token, h);
                const float* v = y.at(plan.place(n).page, plan.place(n).token, h);
                const double norm = std::hypot(double(v[i]), double(v[i + half]));
                for (rw::index c : {i, i + half})
                    worst = std::max(worst, std::abs(double(u[c]) - double(v[c])) / budgets::ulp_f32(norm));
            }
    return worst;
}

}  // namespace

TEST_CASE("shift_keys: a shifted cache holds the keys of the new positions", "[kv][shift]") {
    // YaRN: the magnitude is in the keys already and must not enter twice.
    const auto s =
        rw::frequencies::yarn({.rotary_dim = 40, .base = 1e4, .factor = 8, .original_context = 512});
    REQUIRE(s.magnitude() != 1);
    const longs slots{4, 11, 6};
    for (auto order : {cache_order::nhd, cache_order::hnd, cache_order::packed}) {
        heads_buffer<float> k({1, 3, 2, 40});
        k.fill(1);
        cache_buffer<float> moved({3, 4, 2, 40}, order), direct({3, 4, 2, 40}, order);
        const auto plan = append_at(k, moved, s, rw::position_ids::text(3, 700), slots);
        append_at(k, direct, s, rw::position_ids::text(3, 444), slots);
        const std::vector<double> deltas(3, -256);
        rw::shift_keys(rw::half_split{}, moved.keys(), plan,
                       rw::make_shift_table(s, rw::position_ids::from(deltas)));
        CHECK(distance_in_ulp(moved, direct, plan) <= 6);  // three roundings of 2 ulp
        CHECK(moved.nothing_else_written(plan));
    }
}

TEST_CASE("shift_keys: per axis for M-RoPE, only the axes with a delta move", "[kv][shift]") {
    const std::vector<double> omega = rw::frequencies::geometric({.rotary_dim = 48}).omegas();
    std::vector<int> axis_of;
    for (int i = 0; i < 24; ++i) axis_of.push_back(i < 8 ? 0 : i < 16 ? 1 : 2);
    const auto s = rw::spectrum::selected(omega, axis_of, 3);
    const std::vector<double> at{50, 3, 4, 51, 2, 9}, to{10, 3, 6, 11, 2, 11}, by{-40, 0, 2, -40, 0, 2};
    heads_buffer<float> k({1, 2, 3, 48});
    k.fill(2);
    cache_buffer<float> moved({1, 4, 3, 48}, cache_order::packed), direct({1, 4, 3, 48}, cache_order::packed);
    const longs slots{3, 1};
    const auto plan = append_at(k, moved, s, rw::position_ids::from_tokens_axes(at, 3), slots);
    append_at(k, direct, s, rw::position_ids::from_tokens_axes(to, 3), slots);
    std::vector<float> before;
    for (rw::index i = 8; i < 16; ++i) before.push_back(moved.keys().at(0, 3, 1)[i]);
    rw::shift_keys(rw::half_split{}, moved.keys(), plan,
                   rw::make_shift_table(s, rw::position_ids::from_tokens_axes(by, 3)));
    CHECK(distance_in_ulp(moved, direct, plan) <= 6);
    for (rw::index i = 8; i < 16; ++i)  // the height axis stood still
        CHECK(moved.keys().at(0, 3, 1)[i] == before[std::size_t(i - 8)]);
}

TEST_CASE("shift_keys: re-basing moves keys to another spectrum", "[kv][shift]") {
    const auto from = rw::frequencies::geometric({.rotary_dim = 32, .base = 1e4});
    const auto to = rw::frequencies::geometric({.rotary_dim = 32, .base = 5e5}).with_magnitude(1.2);
    const std::vector<double> positions{5, 600, 4097};
    heads_buffer<float> k({1, 3, 2, 32});
    k.fill(3);
    cache_buffer<float> moved({1, 4, 2, 32}, cache_order::nhd), direct({1, 4, 2, 32}, cache_order::nhd);
    const longs slots{0, 1, 2};
    const auto plan = append_at(k, moved, from, rw::position_ids::from(positions), slots);
    append_at(k, direct, to, rw::position_ids::from(positions), slots);
    rw::shift_keys(rw::half_split{}, moved.keys(), plan,
                   rw::make_rebase_table(from, to, rw::position_ids::from(positions)));
    CHECK(distance_in_ulp(moved, direct, plan) <= 6);
}

TEST_CASE("shift_keys: the drift of 1000 shifts stays within its bound", "[kv][shift][drift]") {
    const auto s = rw::frequencies::geometric({.rotary_dim = 64});
    const longs slots{0, 1};
    heads_buffer<float> k({1, 2, 2, 64});
    k.fill(4);
    cache_buffer<float> moved({1, 2, 2, 64}, cache_order::nhd), direct({1, 2, 2, 64}, cache_order::nhd);
    const auto plan = append_at(k, moved, s, rw::position_ids::text(2, 100000), slots);
    append_at(k, direct, s, rw::position_ids::text(2, 100000 - 1000 * 37), slots);
    const std::vector<double> deltas(2, -37);
    const auto table = rw::make_shift_table(s, rw::position_ids::from(deltas));
    for (int i = 0; i < 1000; ++i) rw::shift_keys(rw::half_split{}, moved.keys(), plan, table);
    const double f32_drift = distance_in_ulp(moved, direct, plan);
    CAPTURE(f32_drift);
    CHECK(f32_drift <= 2 * 1000);
    CHECK(f32_drift > 0);

    heads_buffer<rw::bf16> kb({1, 2, 2, 64});
    kb.fill(4);
    cache_buffer<rw::bf16> moved_b({1, 2, 2, 64}, cache_order::nhd);
    append_at(kb, moved_b, s, rw::position_ids::text(2, 100000), slots);
    for (int i = 0; i < 1000; ++i) rw::shift_keys(rw::half_split{}, moved_b.keys(), plan, table);
    double worst = 0;
    for (rw::index n = 0; n < 2; ++n)
        for (rw::index h = 0; h < 2; ++h)
            for (rw::index i = 0; i < 32; ++i) {
                const rw::bf16* u = moved_b.keys().at(0, n, h);
                const rw::bf16* start = kb.view().at(0, n, h);
                const double now = std::hypot(float(u[i]), float(u[i + 32]));
                const double then = std::hypot(float(start[i]), float(start[i + 32]));
                worst = std::max(worst, std::abs(now / then - 1));
            }
    CAPTURE(worst);
    CHECK(worst <= 4 * std::sqrt(1000.0) * std::ldexp(1.0, -9));
}

TEST_CASE("shift_keys: partial heads, untouched rows, threads and 16 bits", "[kv][shift]") {
    const auto s = rw::frequencies::geometric({.rotary_dim = 16});
    const longs slots{4, -1, 1};
    const rw::cache_plan plan(slots, 2, 4);
    cache_buffer<rw::bf16> a({2, 4, 3, 24}, cache_order::hnd), b({2, 4, 3, 24}, cache_order::hnd);
    for (auto* cache : {&a, &b})
        for (rw::index n : {0, 2})
            for (rw::index h = 0; h < 3; ++h)
                for (rw::index c = 0; c < 24; ++c)
                    cache->keys().at(plan.place(n).page, plan.place(n).token, h)[c] =
                        rw::bf16(float(n + h + c));
    const std::vector<double> deltas{5, 6, 7};
    const auto table = rw::make_shift_table(s, rw::position_ids::from(deltas));
    const std::vector<int> rows{0, 1, -1};
    rw::shift_keys(rw::interleaved{}, a.keys().channel_slice(4, 16), plan, table.rows(rows));
    for (rw::index part = 0; part < 5; ++part)
        rw::shift_keys(rw::interleaved{}, b.keys().channel_slice(4, 16), plan, table.rows(rows),
                       {.part = {5, part}});
    CHECK(a.same_memory(b));
    CHECK(a.nothing_else_written(plan));
    for (rw::index c = 0; c < 24; ++c) {
        CHECK(float(a.keys().at(0, 1, 1)[c]) == float(3 + c));  // its row is untouched
        if (c < 4 || c >= 20) CHECK(float(a.keys().at(1, 0, 1)[c]) == float(1 + c));
    }
    CHECK(float(a.keys().at(1, 0, 1)[4]) != 5);
}
