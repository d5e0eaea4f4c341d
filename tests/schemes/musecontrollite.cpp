// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/musecontrollite.hpp>

#include <cmath>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace muse = ropewalk::musecontrollite;

TEST_CASE("MuseControlLite: queries are stretched over the condition", "[schemes][musecontrollite]") {
    CHECK(muse::key_positions(3).values() == std::vector<double>{0, 1, 2});
    CHECK(muse::query_positions(4, 2).values() == std::vector<double>{0, 0.5, 1, 1.5});
    CHECK(muse::query_positions(5, 5).values() == muse::key_positions(5).values());
    CHECK(muse::query_positions(1, 4096).values() == std::vector<double>{0});
    CHECK(muse::cross_attention({}).rotary_dim == 64);
}

TEST_CASE("MuseControlLite: attention on one key gives that key's rotated value",
          "[schemes][musecontrollite]") {
    const auto rope = muse::cross_attention({.head_dim = 8});
    support::heads_buffer<double> q({1, 1, 1, 8}), k({1, 4, 1, 8}), v({1, 4, 1, 8}), out({1, 1, 1, 8});
    q.fill(1);
    k.fill(2);
    v.fill(3);
    const auto rows = rw::make_rotation_table<double>(rope.spectrum_for(1), muse::key_positions(4));
    rw::rotate(rope, v.view(), rows);
    const std::vector<std::uint8_t> only_two{0, 0, 1, 0};
    rw::attend(q.view(), k.view(), v.view(), out.view(), {.mask = only_two});
    const auto got = out.numbers();
    for (rw::index c = 0; c < 8; ++c) CHECK(got[c] == Approx(v.view().at(0, 2, 0)[c]));
}

TEST_CASE("MuseControlLite: the released code's map, worked example", "[schemes][musecontrollite]") {
    const auto rope = muse::cross_attention({.head_dim = 4});
    const auto rows = rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(1, 7));
    const double t0 = 7, t1 = 7 * 0.01;
    std::vector<double> a{1, 0, 0, 0}, b{0, 1, 0, 0};
    muse::rotate_as_released(rw::heads_view(a.data(), 1, 1, 4), rows);
    muse::rotate_as_released(rw::heads_view(b.data(), 1, 1, 4), rows);
    CHECK(a[0] == Approx(std::cos(t0)));
    CHECK(a[1] == 0);
    CHECK(a[2] == Approx(std::sin(t0)));
    CHECK(b[0] == Approx(-std::sin(t0)));
    CHECK(b[1] == Approx(std::cos(t1)));
    CHECK(b[3] == 0);
    // No rotation: the norm is sin^2 t0 + cos^2 t1, not 1.
    CHECK(b[0] * b[0] + b[1] * b[1] + b[2] * b[2] ==
          Approx(std::sin(t0) * std::sin(t0) + std::cos(t1) * std::cos(t1)));
}

TEMPLATE_TEST_CASE("MuseControlLite: the released code's map against its formula",
                   "[schemes][musecontrollite]", float, double, rw::bf16, rw::f16) {
    using C = rw::compute_t<TestType>;
    const auto rope = muse::cross_attention({.head_dim = 24});
    rw::position_ids where;
    where.append(rw::text_run{2, 3, 0.5}).append(rw::untouched_run{1});
    const auto table = rw::make_rotation_table<C>(rope.spectrum_for(1), where);
    const rw::rows_view<C> rows = table.rows();
    support::heads_buffer<TestType> x({1, 3, 2, 24}, 3, 1);
    x.fill(5);
    const auto before = x.numbers();
    muse::rotate_as_released(x.view(), table);
    const auto after = x.numbers();
    CHECK(x.canaries_alive());
    for (std::size_t head = 0; head < 6; ++head) {
        const double* in = before.data() + 24 * head;
        const double* out = after.data() + 24 * head;
        const rw::index row = rows.row(static_cast<rw::index>(head / 2));
        for (std::size_t c = 0; c < 12; ++c) {
            if (row < 0) {
                CHECK(out[c] == in[c]);
                CHECK(out[c + 12] == in[c + 12]);
                continue;
            }
            const double cos = rows.cos_at(row, 0)[c], sin = rows.sin_at(row, 0)[c];
            const double low = in[c] * cos - in[2 * c + 1] * sin;
            const double high = in[c + 12] * cos + in[2 * c] * sin;
            const double size = std::max(
                {std::abs(in[c]), std::abs(in[2 * c + 1]), std::abs(in[c + 12]), std::abs(in[2 * c])});
            CHECK(std::abs(out[c] - low) <= budgets::rotation<TestType>(size, low));
            CHECK(std::abs(out[c + 12] - high) <= budgets::rotation<TestType>(size, high));
        }
    }
}

TEST_CASE("MuseControlLite: what was given is refused by its name", "[schemes][musecontrollite][errors]") {
    CHECK_REFUSES("musecontrollite::query_positions: query_tokens must be >= 1, got 0",
                  muse::query_positions(0, 4));
    CHECK_REFUSES("musecontrollite::query_positions: key_tokens must be >= 0, got -2",
                  muse::query_positions(2, -2));
    CHECK_REFUSES("musecontrollite::key_positions: key_tokens must be >= 0, got -1", muse::key_positions(-1));
}

TEST_CASE("MuseControlLite: proper layouts score by the difference of positions",
          "[schemes][musecontrollite][invariant]") {
    for (const rw::pair_layout layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        const auto rope = muse::cross_attention({.head_dim = 16, .layout = layout});
        const auto score = [&](double query, double key) {
            support::heads_buffer<double> q({1, 1, 1, 16}), k({1, 1, 1, 16});
            q.fill(1);
            k.fill(2);
            const auto at = [&](double p) {
                return rw::make_rotation_table<double>(rope.spectrum_for(1),
                                                       rw::position_ids::from(std::vector<double>{p}));
            };
            rw::rotate(rope, q.view(), at(query));
            rw::rotate(rope, k.view(), at(key));
            double sum = 0;
            for (rw::index c = 0; c < 16; ++c) sum += q.view().at(0, 0, 0)[c] * k.view().at(0, 0, 0)[c];
            return sum;
        };
        CHECK(score(2.5, 1) == Approx(score(12.5, 11)).epsilon(1e-12));
        CHECK(score(2.5, 1) != Approx(score(2.5, 2)).epsilon(1e-3));
    }
}

TEST_CASE("MuseControlLite: the released code's map rests at position 0 only",
          "[schemes][musecontrollite][invariant]") {
    const auto rope = muse::cross_attention({.head_dim = 16});
    const auto rows = rw::make_rotation_table<double>(rope.spectrum_for(1), muse::key_positions(3));
    support::heads_buffer<double> x({1, 3, 2, 16});
    const auto before = x.fill(5).numbers();
    muse::rotate_as_released(x.view(), rows);
    const auto after = x.numbers();
    for (std::size_t i = 0; i < 32; ++i) CHECK(after[i] == before[i]);
    const auto changed = [&](std::size_t first) {
        return !std::equal(after.begin() + first, after.begin() + first + 32, before.begin() + first);
    };
    CHECK(changed(32));
    CHECK(changed(64));
}
