// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/dispatch/rotate_scheme.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEST_CASE("dispatch: a scheme through the dispatch does what it does directly", "[dispatch]") {
    const auto omega = rw::frequencies::geometric({.rotary_dim = 16});
    auto rope =
        rw::make_fixed_scheme({.head_dim = 24, .first_channel = 8, .layout = rw::interleaved{}}, omega);
    const auto table = rw::make_rotation_table(omega.with_magnitude(1.1), rw::position_ids::text(5, 7));
    const auto rows = table.rows();
    for (std::ptrdiff_t i = 0; ropewalk_available_unit(i) != nullptr; ++i) {
        REQUIRE(ropewalk_use_unit(ropewalk_available_unit(i)) == ROPEWALK_OK);
        for (const bool two_layouts : {false, true}) {
            rope.write_layout = two_layouts ? rw::pair_layout(rw::half_split{}) : rope.read_layout;
            for (const auto direction : {ROPEWALK_ROTATE, ROPEWALK_UNROTATE, ROPEWALK_GRADIENT}) {
                heads_buffer<float> q({1, 5, 2, 24}, 1), k({1, 5, 1, 24}, 1);
                heads_buffer<float> want_q = q.fill(1), want_k = k.fill(2);
                CHECK(rw::dispatch::rotate_scheme(rope, q.view(), k.view(), rows, {.direction = direction}));
                const auto direct = [&](auto x) {
                    if (direction == ROPEWALK_ROTATE) return rw::rotate(rope, x, rows);
                    if (direction == ROPEWALK_UNROTATE) return rw::unrotate(rope, x, rows);
                    return rw::rotate_gradient(rope, x, rows);
                };
                direct(want_q.view()), direct(want_k.view());
                CHECK(support::worst(q.dense(), want_q.dense()) < 2e-6);
                CHECK(support::worst(k.dense(), want_k.dense()) < 2e-6);
                heads_buffer<float> alone({1, 5, 2, 24}, 1);
                alone.fill(1);
                CHECK(rw::dispatch::rotate_scheme(rope, alone.view(), rows, {.direction = direction}));
                CHECK(support::same_bits(alone.dense(), q.dense()));
                heads_buffer<float> packed({1, 5, 1, 48}, 1);
                packed.fill(1);
                const auto before = packed.dense();
                CHECK_FALSE(rw::dispatch::rotate_scheme(rope, packed.view(), rows, {.direction = direction}));
                CHECK(support::same_bits(packed.dense(), before));
            }
        }
    }
    rope.rotates = false;
    heads_buffer<float> still({1, 5, 2, 24});
    const auto before = still.fill(1).dense();
    CHECK(rw::dispatch::rotate_scheme(rope, still.view(), rows));
    CHECK(support::same_bits(still.dense(), before));
}
