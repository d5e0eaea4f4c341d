// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The kernels against a rotation in long double: shapes, strides, layouts, element types, rows, parts.
// Every output must keep the promised bound and every byte outside the view its value.
#include <numbers>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>

#include "../support/heads_buffer.hpp"
#include "../support/rotation_oracle.hpp"
#include "input.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;
using support::heads_buffer;

struct call {
    rw::heads_shape shape;
    index key_heads, gap, shift, pairs;
    rw::pair_layout layout;
    index table_heads, table_rows;
    double magnitude;
    unsigned seed;
};

call read_call(fuzz::input& in) {
    call c{};
    c.shape.batches = 1 + in.below(3);
    c.shape.tokens = in.below(6);
    c.shape.heads = in.below(5);
    c.key_heads = in.below(4);
    c.gap = in.below(4);
    c.shift = in.below(9);
    c.pairs = in.below(140);
    switch (in.below(3)) {
        case 0: c.layout = rw::half_split{}; break;
        case 1: c.layout = rw::interleaved{}; break;
        default:  // a whole number of groups
            const index half = 1 + in.below(40);
            c.pairs = half * (1 + in.below(4));
            c.layout = rw::pair_layout::blocked_by(2 * half);
    }
    c.shape.channels = 2 * c.pairs;
    c.table_heads = in.below(4) == 0 ? std::max<index>(1, c.shape.heads) : 1;
    if (c.table_heads > 1) c.key_heads = c.shape.heads;  // rows of single heads serve as many
    c.table_rows = 1 + in.below(9);
    const double magnitudes[] = {1, 1, 1.2, 0.75};
    c.magnitude = in.one_of(magnitudes);
    c.seed = in.byte();
    return c;
}

template <class C>
rw::rotation_table<C> make_table(const call& c) {
    rw::rotation_table<C> table(c.table_rows, c.table_heads, c.pairs, c.magnitude);
    std::mt19937 engine(c.seed + 1);
    for (index r = 0; r < c.table_rows; ++r)
        for (index h = 0; h < c.table_heads; ++h)
            for (index i = 0; i < c.pairs; ++i) {
                const double angle = 2 * std::numbers::pi * static_cast<double>(engine()) / 4294967296.0;
                table.cos_data(r, h)[i] = static_cast<C>(c.magnitude * std::cos(angle));
                table.sin_data(r, h)[i] = static_cast<C>(c.magnitude * std::sin(angle));
            }
    return table;
}

template <class T, class C>
void check(const char* what, heads_buffer<T>& x, const std::vector<double>& before, rw::pair_layout layout,
           rw::rows_view<C> rows) {
    fuzz::require(support::worst_over_budget(layout, x.view(), before, rows) <= 1, what);
    fuzz::require(x.canaries_alive(), "a kernel wrote outside its view");
}

template <class T>
void run(fuzz::input& in) {
    using C = rw::compute_t<T>;
    const call c = read_call(in);
    const auto table = make_table<C>(c);
    const index tokens = c.shape.batches * c.shape.tokens;
    std::vector<std::int32_t> narrow(static_cast<std::size_t>(tokens));
    for (auto& row : narrow)
        row = static_cast<std::int32_t>(in.below(static_cast<int>(c.table_rows) + 1)) - 1;
    const std::vector<std::int64_t> wide(narrow.begin(), narrow.end());
    const auto rows = in.below(2) == 0 ? table.rows(narrow) : table.rows(wide);

    auto key_shape = c.shape;
    key_shape.heads = c.key_heads;
    heads_buffer<T> q(c.shape, c.gap, c.shift), k(key_shape, c.gap + 1, c.shift + 3);
    q.fill(c.seed), k.fill(c.seed + 7);
    const auto q_before = q.numbers(), k_before = k.numbers();
    const rw::part_of whole{};
    switch (in.below(8)) {
        case 0:
            rw::rotate(c.layout, q.view(), rows);
            check("rotate(layout, x, rows)", q, q_before, c.layout, rows);
            break;
        case 1:
            rw::rotate(c.layout, q.view(), k.view(), rows);
            check("rotate(layout, q, k, rows): q", q, q_before, c.layout, rows);
            check("rotate(layout, q, k, rows): k", k, k_before, c.layout, rows);
            break;
        case 2: {  // the layout as a type, in parts
            const index parts = 1 + in.below(7);
            for (index part = 0; part < parts; ++part)
                if (c.layout == rw::pair_layout(rw::half_split{}))
                    rw::rotate(rw::half_split{}, q.view(), k.view(), rows, {parts, part});
                else if (c.layout == rw::pair_layout(rw::interleaved{}))
                    rw::rotate(rw::interleaved{}, q.view(), k.view(), rows, {parts, part});
                else
                    rw::rotate(c.layout, q.view(), k.view(), rows, {parts, part});
            check("rotate in parts: q", q, q_before, c.layout, rows);
            check("rotate in parts: k", k, k_before, c.layout, rows);
            break;
        }
        case 3: {
            const auto key_rows = table.rows(std::span(narrow));
            rw::rotate(c.layout, q.view(), k.view(), rows, key_rows, whole);
            check("rotate with two sets of rows: q", q, q_before, c.layout, rows);
            check("rotate with two sets of rows: k", k, k_before, c.layout, key_rows);
            break;
        }
        case 4: {
            auto back = table;
            for (index r = 0; r < back.row_count(); ++r)
                for (index h = 0; h < back.heads(); ++h)
                    for (index i = 0; i < back.pairs(); ++i) back.sin_data(r, h)[i] = -back.sin_data(r, h)[i];
            rw::rotate_gradient(c.layout, q.view(), rows);
            check("the transpose", q, q_before, c.layout, back.rows(narrow));
            break;
        }
        case 5: {  // into another layout and back into the first: what is written must be the rotation
            heads_buffer<T> to(c.shape, c.gap + 2, c.shift + 1);
            to.fill(c.seed + 9);
            for (index n = 0; n < tokens; ++n)  // untouched tokens are not written
                if (narrow[static_cast<std::size_t>(n)] < 0)
                    for (index h = 0; h < c.shape.heads; ++h)
                        std::copy_n(q.view().at(n / c.shape.tokens, n % c.shape.tokens, h), c.shape.channels,
                                    to.view().at(n / c.shape.tokens, n % c.shape.tokens, h));
            rw::rotate_into(c.layout, rw::heads_view<const T>(q.view()), to.view(), rows);
            check("rotate_into", to, q_before, c.layout, rows);
            fuzz::require(q.numbers() == q_before, "rotate_into wrote to its source");
            break;
        }
        case 6: {  // the same bits in two layouts
            heads_buffer<T> other(c.shape, c.gap, c.shift + 1);
            other.fill(c.seed);
            rw::rotate_into(rw::layout_slice{.read = c.layout, .write = rw::interleaved{}},
                            rw::heads_view<const T>(q.view()), other.view(), rows);
            rw::rotate(c.layout, q.view(), rows);
            const rw::pair_layout woven = rw::interleaved{};
            for (index n = 0; n < tokens; ++n)
                for (index h = 0; h < c.shape.heads && narrow[static_cast<std::size_t>(n)] >= 0; ++h)
                    for (index i = 0; i < c.pairs; ++i) {
                        const T* a = q.view().at(n / c.shape.tokens, n % c.shape.tokens, h);
                        const T* b = other.view().at(n / c.shape.tokens, n % c.shape.tokens, h);
                        fuzz::require(std::memcmp(a + c.layout.first(i, c.pairs), b + woven.first(i, c.pairs),
                                                  sizeof(T)) == 0 &&
                                          std::memcmp(a + c.layout.second(i, c.pairs),
                                                      b + woven.second(i, c.pairs), sizeof(T)) == 0,
                                      "two layouts differ in bits");
                    }
            fuzz::require(other.canaries_alive(), "rotate_into wrote outside its view");
            break;
        }
        default: {  // rows made in the kernel, against a table's
            std::vector<double> omega(static_cast<std::size_t>(c.pairs));
            for (index i = 0; i < c.pairs; ++i)
                omega[static_cast<std::size_t>(i)] = 1 / static_cast<double>(1 + i);
            const auto s = rw::spectrum::from_omega(omega).with_magnitude(c.magnitude);
            std::vector<double> positions(static_cast<std::size_t>(tokens));
            for (auto& p : positions) p = static_cast<double>(in.byte()) * 4097.5 - 5e5;
            const auto exact = rw::make_rotation_table<double>(s, rw::position_ids::from(positions));
            rw::rotate(c.layout, q.view(), k.view(), rw::rows_on_the_fly(s, positions));
            std::size_t at = 0;
            for (index n = 0; n < tokens; ++n)
                for (index h = 0; h < c.shape.heads; ++h, at += static_cast<std::size_t>(2 * c.pairs)) {
                    const T* head = q.view().at(n / c.shape.tokens, n % c.shape.tokens, h);
                    const std::vector<double> from(
                        q_before.begin() + static_cast<std::ptrdiff_t>(at),
                        q_before.begin() + static_cast<std::ptrdiff_t>(at) + 2 * c.pairs);
                    const auto want = support::rotated_head(c.layout, from, exact.cos_row(n).data(),
                                                            exact.sin_row(n).data());
                    for (std::size_t i = 0; i < from.size(); ++i) {
                        const double rows_bound = std::is_same_v<C, double> ? 1e-9 : 2.1e-7 * 1.5;
                        const auto got = static_cast<double>(static_cast<C>(head[i]));
                        fuzz::require(
                            std::abs(got - want.value[i]) <=
                                budgets::rotation<T>(want.norm[i], want.value[i]) + rows_bound * want.norm[i],
                            "rows on the fly");
                    }
                }
            fuzz::require(q.canaries_alive() && k.canaries_alive(), "rows on the fly wrote outside");
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::input in(data, size);
    switch (in.below(4)) {
        case 0: run<float>(in); break;
        case 1: run<double>(in); break;
        case 2: run<rw::f16>(in); break;
        default: run<rw::bf16>(in);
    }
    return 0;
}
