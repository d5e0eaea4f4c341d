// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every row source with every place: one body, run over all pairs of them. What a place makes of a row source
// is what it makes of the table of the same rows; no bit depends on the split; nothing outside is written.
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/kv/prepare_attention.hpp>
#include <ropewalk/kv/shift_keys.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include <cmath>
#include <vector>

#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::cache_order;
using support::heads_buffer;

namespace {

constexpr rw::index tokens = 6, heads = 3, dim = 40, rotary = 24, first_channel = 8;

const rw::rotary_scheme& layer(bool two_layouts) {
    static const rw::rotary_scheme one{.head_dim = dim,
                                       .first_channel = first_channel,
                                       .rotary_dim = rotary,
                                       .read_layout = rw::interleaved{},
                                       .write_layout = rw::interleaved{}};
    static const rw::rotary_scheme two{.head_dim = dim,
                                       .first_channel = first_channel,
                                       .rotary_dim = rotary,
                                       .read_layout = rw::interleaved{},
                                       .write_layout = rw::half_split{}};
    return two_layouts ? two : one;
}

std::vector<int> slots() { return {5, 0, 7, 2, 3, 6}; }

template <class D>
auto numbers_of(cache_buffer<D>& cache, const rw::cache_plan& plan) {
    std::vector<double> out;
    for (rw::index n = 0; n < plan.tokens(); ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < dim; ++c)
                out.push_back(static_cast<double>(static_cast<rw::compute_t<D>>(
                    cache.keys().at(plan.place(n).page, plan.place(n).token, h)[c])));
    return out;
}

/// What every place makes of these rows, in `parts` parts; each checks what it may not touch.
template <class T, class Rows>
std::vector<std::vector<double>> all_places(const rw::rotary_scheme& rope, const Rows& rows,
                                            rw::index parts) {
    std::vector<std::vector<double>> made;
    const auto each_part = [&](auto call) {
        for (rw::index part = 0; part < parts; ++part) REQUIRE(call(rw::part_of{parts, part}));
    };
    for (const int verb : {0, 1, 2}) {
        heads_buffer<T> q({1, tokens, heads, dim}, 1, 1), k({1, tokens, heads, dim}, 2);
        q.fill(1), k.fill(2);
        each_part([&](rw::part_of part) {
            return verb == 0   ? rw::rotate(rope, q.view(), k.view(), rows, part)
                   : verb == 1 ? rw::unrotate(rope, q.view(), rows, part)
                               : rw::rotate_gradient(rope, q.view(), k.view(), rows, rows, part);
        });
        CHECK(q.canaries_alive());
        CHECK(k.canaries_alive());
        made.push_back(q.numbers());
    }
    for (const auto unrotated : {rw::unrotated_numbers::left_alone, rw::unrotated_numbers::copied}) {
        heads_buffer<T> from({1, tokens, heads, dim}), to({1, tokens, heads, dim}, 3, 1);
        from.fill(1), to.fill(9);
        each_part([&](rw::part_of part) {
            return rw::rotate_into(rope, from.view(), to.view(), rows,
                                   {.unrotated = unrotated, .part = part});
        });
        CHECK(to.canaries_alive());
        made.push_back(to.numbers());
    }
    using C = rw::compute_t<T>;
    const rw::head_norm<C> norm({.channels = dim});
    {
        heads_buffer<T> x({1, tokens, heads, dim}, 1);
        x.fill(1);
        each_part([&](rw::part_of part) {
            return rw::normalize_and_rotate(rope, x.view(), norm, rows, {.part = part});
        });
        CHECK(x.canaries_alive());
        made.push_back(x.numbers());
    }
    heads_buffer<T> key({1, tokens, heads, dim}, 2), query({1, tokens, heads, dim}, 1), out = query.fill(3);
    key.fill(1);
    cache_buffer<T> cache({2, 4, heads, dim}, cache_order::hnd), prepared = cache;
    rw::append_call<T> call{.key = key.view(), .key_cache = cache.keys()};
    const auto plan = rw::make_append_plan(call, slots());
    each_part([&](rw::part_of part) { return rw::append(rope, call, plan, rows, part); });
    CHECK(cache.nothing_else_written(plan));
    made.push_back(numbers_of(cache, plan));
    rw::prepare_call<T> prologue{
        .q = query.view(), .q_out = out.view(), .new_rows = call, .k_norm = norm.view()};
    prologue.new_rows.key_cache = prepared.keys();
    const auto prepare_plan = rw::make_prepare_plan(prologue, slots());
    each_part(
        [&](rw::part_of part) { return rw::prepare_attention(rope, prologue, prepare_plan, rows, part); });
    CHECK(prepared.nothing_else_written(plan));
    CHECK(out.canaries_alive());
    made.push_back(numbers_of(prepared, plan));
    made.push_back(out.numbers());
    each_part(
        [&](rw::part_of part) { return rw::shift_keys(rope, cache.keys(), plan, rows, {.part = part}); });
    CHECK(cache.nothing_else_written(plan));
    made.push_back(numbers_of(cache, plan));
    return made;
}

template <class T, class Rows, class Table>
void check_source(const Rows& rows, const Table& table, double tolerance) {
    for (const bool two_layouts : {false, true}) {
        const auto& rope = layer(two_layouts);
        const auto got = all_places<T>(rope, rows, 1), want = all_places<T>(rope, table, 1);
        REQUIRE(got.size() == want.size());
        for (std::size_t place = 0; place < got.size(); ++place) {
            double worst = 0;
            for (std::size_t i = 0; i < got[place].size(); ++i)
                worst = std::max(worst, std::abs(got[place][i] - want[place][i]));
            INFO("place " << place << (two_layouts ? ", two layouts" : ""));
            CHECK(got[place].size() == want[place].size());
            CHECK(worst <= tolerance);
        }
        CHECK(all_places<T>(rope, rows, 5) == got);
    }
}

template <class T>
void check_all_sources() {
    using C = rw::compute_t<T>;
    const double rounding = sizeof(T) == 2 ? 0x1p-4 : 0;
    const double made = rounding > 0 ? rounding : sizeof(T) == 4 ? 4e-6 : 1e-14;
    const auto omega = rw::frequencies::geometric({.rotary_dim = rotary});
    const std::vector<double> where{0, 3, -2, 70000, 0.5, 9};
    const auto table = rw::make_rotation_table<C>(omega, rw::position_ids::from(where));
    check_source<T>(table.rows(), table, 0);
    const std::vector<std::uint32_t> order{5, 4, 3, 2, 1, 0};
    std::vector<double> backwards(where.rbegin(), where.rend());
    const auto reversed = rw::make_rotation_table<C>(omega, rw::position_ids::from(backwards));
    check_source<T>(reversed.rows(order), table, 0);
    check_source<T>(rw::rows_on_the_fly(omega, where), table, made);
    rw::position_ids text(1);
    text.append(rw::listed_run{where});
    check_source<T>(rw::make_factored_table<C>(omega, text), table, made);
    // One angle for all pairs: the table of a constant ladder.
    const rw::uniform_table<C> uniform(rw::position_ids::from(where), 0.25);
    std::vector<double> constant(rotary / 2, 0.25);
    const auto full =
        rw::make_rotation_table<C>(rw::spectrum::selected(constant, {}, 1, 1), rw::position_ids::from(where));
    check_source<T>(uniform, full, made);
    // Heads with frequencies of their own.
    std::vector<double> each(heads * rotary / 2);
    for (std::size_t i = 0; i < each.size(); ++i) each[i] = 1 / (1 + double(i));
    const auto own = rw::spectrum::selected(each, {}, 1, heads);
    const auto of_heads = rw::make_rotation_table<C>(own, rw::position_ids::from(where));
    check_source<T>(of_heads.rows(), of_heads, 0);
    check_source<T>(rw::rows_on_the_fly(own, where), of_heads, made);
    check_source<T>(rw::make_factored_table<C>(own, text), of_heads, made);
    // A layer without RoPE looks at no rows.
    auto still = layer(false);
    still.rotates = false;
    const auto none = all_places<T>(still, table, 1);
    heads_buffer<T> unchanged({1, tokens, heads, dim});
    CHECK(none[0] == unchanged.fill(1).numbers());
    CHECK(none[4] == unchanged.numbers());
    CHECK(none[6] == unchanged.numbers());
}

}  // namespace

#ifndef ROWS_X_PLACE_ELEMENT
#define ROWS_X_PLACE_ELEMENT float
#define ROWS_X_PLACE_NAME "rows x place: f32"
#endif
TEST_CASE(ROWS_X_PLACE_NAME, "[kv][rows_x_place]") { check_all_sources<ROWS_X_PLACE_ELEMENT>(); }
