// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// What must hold of any rotation whatever the numbers are, for every dtype and pair layout. Bounds are the
// documented ones: the kernel's, and the table's at the angles in use.

#include "tests/kernels/metamorphic.hpp"

#include <algorithm>

#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

namespace metamorphic {

TEST_CASE("metamorphic: scores do not change when all positions shift", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto rope = ladder(s.pairs);
        const auto q0 = random_tensor<T>(s.shape, 1), k0 = random_tensor<T>(s.shape, 2);
        std::vector<double> first;
        for (double shift : {0.0, 17.0, -1000.0, 1048576.0}) {
            auto q = q0, k = k0;
            const auto table = table_at<T>(rope, positions_for(s.shape, shift));
            rw::rotate(s.layout, q.view(), k.view(), table);
            std::vector<double> scores;
            double worst = 0;
            std::size_t at = 0;
            // Every query against every key of its batch, head by head.
            for (index b = 0; b < s.shape.batches; ++b)
                for (index m = 0; m < s.shape.tokens; ++m)
                    for (index n = 0; n < s.shape.tokens; ++n)
                        for (index h = 0; h < s.shape.heads; ++h, ++at) {
                            const T *qm = q.view().at(b, m, h), *kn = k.view().at(b, n, h);
                            scores.push_back(dot(qm, kn, s.shape.channels));
                            if (first.empty()) continue;
                            const double norms =
                                std::sqrt(dot(qm, qm, s.shape.channels) * dot(kn, kn, s.shape.channels));
                            worst = std::max(worst, std::abs(scores[at] - first[at]) / norms);
                        }
            if (first.empty()) first = scores;
            INFO("shift " << shift);
            REQUIRE(worst <= 4.1 * turn_bound<T>(2 * largest_angle));
        }
    });
}

TEST_CASE("metamorphic: every pair keeps its norm up to the magnitude", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        for (double magnitude : {1.0, 1.138629436111989, 0.25}) {
            auto x = random_tensor<T>(s.shape, 3);
            auto y = x;
            rw::rotate(s.layout, y.view(), table_at<T>(ladder(s.pairs, magnitude), positions_for(s.shape)));
            double worst = 0;
            for (index b = 0; b < s.shape.batches; ++b)
                for (index n = 0; n < s.shape.tokens; ++n)
                    for (index h = 0; h < s.shape.heads; ++h)
                        for (index i = 0; i < s.pairs; ++i) {
                            const index u = s.layout.first(i, s.pairs), v = s.layout.second(i, s.pairs);
                            const T *a = x.view().at(b, n, h), *c = y.view().at(b, n, h);
                            const double before = std::hypot(wide(a[u]), wide(a[v]));
                            worst = std::max(
                                worst,
                                std::abs(std::hypot(wide(c[u]), wide(c[v])) / (magnitude * before) - 1));
                        }
            INFO("magnitude " << magnitude);
            REQUIRE(worst <= turn_bound<T>(largest_angle));
        }
    });
}

TEST_CASE("metamorphic: unrotate undoes rotate, also under a magnitude", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        for (double magnitude : {1.0, 1.138629436111989, 0.25}) {
            auto x = random_tensor<T>(s.shape, 4);
            const auto table = table_at<T>(ladder(s.pairs, magnitude), positions_for(s.shape));
            auto y = x, z = x;
            rw::rotate(s.layout, y.view(), table);
            REQUIRE_FALSE(y == x);
            z = y;
            rw::unrotate(s.layout, y.view(), table);
            INFO("magnitude " << magnitude);
            REQUIRE(worst_pair_error(s, y, x, x) <= 2.01 * turn_bound<T>(largest_angle));
            // The transpose keeps the magnitude where the inverse divides by it.
            rw::rotate_gradient(s.layout, z.view(), table);
            const double squared = magnitude * magnitude;
            REQUIRE(worst_pair_error(s, z, x, x, squared) <= 2.01 * squared * turn_bound<T>(largest_angle));
        }
    });
}

TEST_CASE("metamorphic: the gradient is the adjoint of the rotation", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto x = random_tensor<T>(s.shape, 5), g = random_tensor<T>(s.shape, 6);
        const auto table = table_at<T>(ladder(s.pairs, 1.5), positions_for(s.shape));
        auto rx = x, rg = g;
        rw::rotate(s.layout, rx.view(), table);
        rw::rotate_gradient(s.layout, rg.view(), table);
        const auto count = static_cast<index>(x.values.size());
        const double forward = dot(rx.values.data(), g.values.data(), count);
        const double backward = dot(x.values.data(), rg.values.data(), count);
        const double norms = std::sqrt(dot(x.values.data(), x.values.data(), count) *
                                       dot(g.values.data(), g.values.data(), count));
        REQUIRE(std::abs(forward - backward) <= 2 * 1.5 * kernel_bound<T>() * norms);
    });
}

TEST_CASE("metamorphic: turning by a then by b is turning by a + b", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto rope = ladder(s.pairs);
        auto x = random_tensor<T>(s.shape, 7);
        auto twice = x, once = x;
        const std::vector<double> step(positions_for(s.shape).size(), -41.0);
        rw::rotate(s.layout, twice.view(), table_at<T>(rope, positions_for(s.shape)));
        rw::rotate(s.layout, twice.view(), table_at<T>(rope, step));
        rw::rotate(s.layout, once.view(), table_at<T>(rope, positions_for(s.shape, -41)));
        REQUIRE(worst_pair_error(s, twice, once, x) <= 3.01 * turn_bound<T>(largest_angle));
    });
}

TEST_CASE("metamorphic: a negative position turns back", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto rope = ladder(s.pairs);
        auto x = random_tensor<T>(s.shape, 8);
        auto back = x, inverse = x;
        auto negative = positions_for(s.shape);
        for (double& p : negative) p = -p;
        rw::rotate(s.layout, back.view(), table_at<T>(rope, negative));
        rw::unrotate(s.layout, inverse.view(), table_at<T>(rope, positions_for(s.shape)));
        REQUIRE(worst_pair_error(s, back, inverse, x) <= 2.01 * turn_bound<T>(largest_angle));
    });
}

TEST_CASE("metamorphic: position 0 and frequency 0 leave the bits alone", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto x = random_tensor<T>(s.shape, 9);
        auto y = x;
        const std::vector<double> zeros(positions_for(s.shape).size(), 0.0);
        rw::rotate(s.layout, y.view(), table_at<T>(ladder(s.pairs), zeros));
        REQUIRE(y == x);
        const std::vector<double> still(static_cast<std::size_t>(s.pairs), 0.0);
        rw::rotate(s.layout, y.view(), table_at<T>(rw::spectrum::from_omega(still), positions_for(s.shape)));
        REQUIRE(y == x);
    });
}

TEST_CASE("metamorphic: layouts are equal up to the channel permutation", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto table = table_at<T>(ladder(s.pairs, 1.25), positions_for(s.shape));
        auto x = random_tensor<T>(s.shape, 10);
        // The same pairs in half-split order.
        const subject half{rw::half_split{}, s.shape, s.pairs};
        const auto permuted = [&](tensor<T>& from) {
            tensor<T> to(s.shape);
            const auto reorder = [&](T* out, const T* in) {
                for (index i = 0; i < s.pairs; ++i) {
                    out[half.layout.first(i, s.pairs)] = in[s.layout.first(i, s.pairs)];
                    out[half.layout.second(i, s.pairs)] = in[s.layout.second(i, s.pairs)];
                }
            };
            for (index b = 0; b < s.shape.batches; ++b)
                for (index n = 0; n < s.shape.tokens; ++n)
                    for (index h = 0; h < s.shape.heads; ++h)
                        reorder(to.view().at(b, n, h), from.view().at(b, n, h));
            return to;
        };
        auto split = permuted(x);
        auto reference = split;
        tensor<T> moved(s.shape);
        rw::rotate_into(rw::layout_slice{.read = s.layout, .write = half.layout},
                        heads_view<const T>(x.view()), moved.view(), table);
        rw::rotate(s.layout, x.view(), table);
        rw::rotate(half.layout, split.view(), table);
        auto rotated = permuted(x);
        REQUIRE(worst_pair_error(half, rotated, split, reference) <= 2 * 1.25 * kernel_bound<T>());
        REQUIRE(worst_pair_error(half, moved, split, reference) <= 2 * 1.25 * kernel_bound<T>());
    });
}

TEST_CASE("metamorphic: a rebase table moves cached keys to another spectrum", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto from = ladder(s.pairs);
        const auto to =
            rw::frequencies::yarn({.rotary_dim = 2 * s.pairs, .factor = 8, .original_context = 4096});
        auto x = random_tensor<T>(s.shape, 11);
        auto moved = x, fresh = x;
        rw::rotate(s.layout, moved.view(), table_at<T>(from, positions_for(s.shape)));
        rw::rotate(s.layout, moved.view(),
                   rw::make_rebase_table<rw::compute_t<T>>(from, to,
                                                           rw::position_ids::from(positions_for(s.shape))));
        rw::rotate(s.layout, fresh.view(), table_at<T>(to, positions_for(s.shape)));
        REQUIRE(worst_pair_error(s, moved, fresh, x) <= 3.01 * to.magnitude() * turn_bound<T>(largest_angle));
    });
}

TEST_CASE("metamorphic: one call has the bits of one call a token, a tensor, a head",
          "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto rope = ladder(s.pairs, 1.25);
        const auto where = positions_for(s.shape);
        const auto table = table_at<T>(rope, where);
        const auto q0 = random_tensor<T>(s.shape, 12);
        heads_shape key_shape = s.shape;
        key_shape.heads = 1;
        const auto k0 = random_tensor<T>(key_shape, 13);

        auto q = q0, k = k0;
        rw::rotate(s.layout, q.view(), k.view(), table);

        auto alone = q0;  // each tensor by itself
        rw::rotate(s.layout, alone.view(), table);
        REQUIRE(alone == q);
        auto key = k0;
        rw::rotate(s.layout, key.view(), table);
        REQUIRE(key == k);

        auto pieces = q0;  // each (batch, token, head) by itself, from a table of one row
        for (index b = 0; b < s.shape.batches; ++b)
            for (index n = 0; n < s.shape.tokens; ++n) {
                const auto row = table_at<T>(rope, {where[static_cast<std::size_t>(b * s.shape.tokens + n)]});
                for (index h = 0; h < s.shape.heads; ++h)
                    rw::rotate(s.layout, pieces.view().batch_slice(b, 1).token_slice(n, 1).head_slice(h, 1),
                               row);
            }
        REQUIRE(pieces == q);

        auto parts = q0;  // as three threads would do it
        for (index part = 0; part < 3; ++part)
            rw::rotate(s.layout, parts.view(), table, {.parts = 3, .part = part});
        REQUIRE(parts == q);

        // Heads before tokens, in rows padded by an odd count: other strides and alignment.
        const index padded = s.shape.channels + 3;
        std::vector<T> memory(
            static_cast<std::size_t>(s.shape.batches * s.shape.tokens * s.shape.heads * padded + 1));
        const heads_view<T> strided(memory.data() + 1, s.shape,
                                    {.batch = s.shape.heads * s.shape.tokens * padded,
                                     .token = padded,
                                     .head = s.shape.tokens * padded});
        const auto each_head = [&](auto&& visit) {
            for (index b = 0; b < s.shape.batches; ++b)
                for (index n = 0; n < s.shape.tokens; ++n)
                    for (index h = 0; h < s.shape.heads; ++h) visit(b, n, h);
        };
        auto copy = q0;
        each_head([&](index b, index n, index h) {
            std::copy_n(copy.view().at(b, n, h), s.shape.channels, strided.at(b, n, h));
        });
        rw::rotate(s.layout, strided, table);
        each_head([&](index b, index n, index h) {
            std::copy_n(strided.at(b, n, h), s.shape.channels, copy.view().at(b, n, h));
        });
        REQUIRE(copy == q);
    });
}

TEST_CASE("metamorphic: a layout type and its run-time value give the same bits", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto table = table_at<T>(ladder(s.pairs), positions_for(s.shape));
        auto by_value = random_tensor<T>(s.shape, 14);
        auto by_type = by_value;
        rw::rotate(s.layout, by_value.view(), table);
        if (s.layout == pair_layout(rw::half_split{})) rw::rotate(rw::half_split{}, by_type.view(), table);
        if (s.layout == pair_layout(rw::interleaved{})) rw::rotate(rw::interleaved{}, by_type.view(), table);
        if (s.layout == pair_layout(rw::blocked<4>{})) rw::rotate(rw::blocked<4>{}, by_type.view(), table);
        if (s.layout == pair_layout(rw::blocked<16>{})) rw::rotate(rw::blocked<16>{}, by_type.view(), table);
        REQUIRE(by_type == by_value);
    });
}

TEST_CASE("metamorphic: equal heads of a per-head spectrum are a shared one", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto shared = ladder(s.pairs, 1.25);
        std::vector<double> omega;
        for (index h = 0; h < s.shape.heads; ++h)
            for (double w : shared.omegas()) omega.push_back(w);
        const auto per_head = rw::spectrum::selected(omega, {}, 1, s.shape.heads, shared.magnitude());
        auto x = random_tensor<T>(s.shape, 15);
        auto a = x, b = x;
        rw::rotate(s.layout, a.view(), table_at<T>(shared, positions_for(s.shape)));
        rw::rotate(s.layout, b.view(), table_at<T>(per_head, positions_for(s.shape)));
        // omega -> turns -> omega may lose a bit of the frequency, hence not bit for bit.
        REQUIRE(worst_pair_error(s, a, b, x) <= 2.01 * 1.25 * turn_bound<T>(2 * largest_angle));
    });
}

TEST_CASE("metamorphic: tokens without a row keep their bits", "[kernels][metamorphic]") {
    for_each_subject([]<class T>(T, const subject& s) {
        const auto table = table_at<T>(ladder(s.pairs), positions_for(s.shape, 1));
        const auto x = random_tensor<T>(s.shape, 16);
        auto all = x, some = x;
        rw::rotate(s.layout, all.view(), table);
        std::vector<std::int32_t> rows;
        for (index n = 0; n < s.shape.batches * s.shape.tokens; ++n)
            rows.push_back(n % 2 == 0 ? rw::untouched_row : static_cast<std::int32_t>(n));
        rw::rotate(s.layout, some.view(), table.rows(std::span<const std::int32_t>(rows)));
        const std::size_t size = x.values.size() / rows.size();
        auto expected = x;
        for (std::size_t n = 1; n < rows.size(); n += 2)
            std::copy_n(all.values.begin() + static_cast<index>(n * size), size,
                        expected.values.begin() + static_cast<index>(n * size));
        REQUIRE(some == expected);
    });
}

}  // namespace metamorphic
