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

TEST_CASE("dispatch: views that do not fit a scheme or their rows are refused with the reason",
          "[dispatch][errors]") {
    const auto omega = rw::frequencies::geometric({.rotary_dim = 16});
    const auto rope =
        rw::make_fixed_scheme({.head_dim = 24, .first_channel = 8, .layout = rw::interleaved{}}, omega);
    const auto table = rw::make_rotation_table(omega, rw::position_ids::text(3));
    const auto other =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(2));
    heads_buffer<float> two({1, 2, 2, 24}), three({1, 3, 1, 24}), wide({1, 3, 1, 48});
    two.fill(1);
    const auto before = two.dense();
    const auto reason = [](bool done) {
        char text[200] = "";
        ropewalk_last_misfit(text, sizeof text);
        return done ? std::string() : std::string(text);
    };
    using rw::dispatch::rotate_scheme;
    CHECK(reason(rotate_scheme(rope, two.view(), table.rows())) ==
          "rows must be one per token (batches * tokens): wanted 2, got 3");
    CHECK(reason(rotate_scheme(rope, two.view(), three.view(), table.rows())) ==
          "k must have the tokens of q: wanted 2, got 3");
    CHECK(reason(rotate_scheme(rope, two.view(), other.rows())) ==
          "pairs of the rows must be half the rotary_dim of the scheme: wanted 8, got 4");
    CHECK(reason(rotate_scheme(rope, wide.view(), table.rows())) ==
          "channels must be the head_dim or the rotary_dim of the scheme: wanted 24, got 48");
    CHECK(reason(rw::dispatch::run(
              rw::dispatch::make_rotate_call(rw::half_split{}, three.view(), table.rows()))) ==
          "channels must be twice the pairs of the rows: wanted 16, got 24");
    CHECK(support::same_bits(two.dense(), before));
    // The words are copied, and cut.
    ropewalk_note_misfit(std::string(300, 'x').c_str(), 1, 2);
    CHECK(reason(false) == std::string(199, 'x'));
    char text[300];
    CHECK(ropewalk_last_misfit(text, sizeof text) == 199 + std::string(": wanted 1, got 2").size());
}
