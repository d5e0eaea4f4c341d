// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/fit.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

std::string text(const rw::misfit& m) { return to_string(m); }

}  // namespace

TEST_CASE("fit: what disagrees is named, with what would fit and what came", "[kernels][fit]") {
    std::vector<float> memory(4096);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(6));
    const rw::heads_view<float> x(memory.data(), 6, 2, 32);
    CHECK(text(rw::fit(rw::half_split{}, x, table)) == "fits");
    CHECK(rw::fit(rw::half_split{}, x, table).ok());
    CHECK(text(rw::fit(rw::half_split{}, rw::heads_view<float>(memory.data(), 6, 2, 30), table)) ==
          "channels must be twice the pairs of the rows: wanted 32, got 30");
    // More rows than tokens are as wrong as fewer: which of them would be meant?
    CHECK(text(rw::fit(rw::half_split{}, x.token_slice(0, 3), table)) ==
          "rows must be one per token (batches * tokens): wanted 3, got 6");
    CHECK(text(rw::fit(rw::half_split{}, rw::heads_view<float>(memory.data(), {2, 6, 2, 32}), table)) ==
          "rows must be one per token (batches * tokens): wanted 12, got 6");
    CHECK(text(rw::fit(rw::pair_layout::blocked_by(12), x, table)) ==
          "rotated channels must be a multiple of the layout's group: wanted 12, got 32");
    CHECK(text(rw::fit(rw::half_split{}, rw::heads_view<float>(nullptr, 6, 2, 32), table)) ==
          "data must not be null: wanted 1, got 0");
    CHECK(text(rw::fit(rw::half_split{}, x.head_slice(1, 2), table)) ==
          "extents must be >= 0 (a slice outside its view has -1): wanted 0, got -1");
    CHECK(text(rw::fit(rw::half_split{}, x, table.rows().token_slice(4, 3))) ==
          "rows must be one per token (batches * tokens): wanted 6, got -1");
    CHECK(rw::fit(rw::half_split{}, rw::heads_view<float>(nullptr, 0, 2, 32), table).ok());
    // Of several views the one that disagrees is named.
    const rw::heads_view<float> narrow(memory.data(), 6, 2, 30);
    CHECK(text(rw::fit(rw::half_split{}, narrow, x, table)) ==
          "q: channels must be twice the pairs of the rows: wanted 32, got 30");
    CHECK(text(rw::fit(rw::half_split{}, x, narrow, table)) ==
          "k: channels must be twice the pairs of the rows: wanted 32, got 30");
    CHECK_REFUSES("require_fits: channels must be twice the pairs of the rows: wanted 32, got 16",
                  rw::require_fits(rw::half_split{}, x.channel_slice(0, 16), table));
}

TEST_CASE("fit: strides under which heads share channels", "[kernels][fit]") {
    std::vector<float> memory(8192);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(6));
    const auto of = [&](rw::heads_shape shape, rw::heads_strides strides) {
        return text(rw::fit(rw::half_split{}, rw::heads_view<float>(memory.data(), shape, strides), table));
    };
    CHECK(of({1, 6, 4, 8}, {0, 8, 0}) == "the head stride must step over what a head holds: wanted 8, got 0");
    CHECK(of({1, 6, 4, 8}, {.token = 32}) ==
          "the head stride must step over what a head holds: wanted 8, got 0");
    // Of a stride that was forgotten, too, what it must step over is said.
    CHECK(of({1, 6, 4, 8}, {.head = 8}) ==
          "the token stride must step over what a token holds: wanted 32, got 0");
    CHECK(of({2, 6, 4, 8}, {.token = 32, .head = 8}) ==
          "the batch stride must step over what a batch holds: wanted 192, got 0");
    CHECK(of({1, 6, 4, 8}, {0, 31, 8}) ==
          "the token stride must step over what a token holds: wanted 32, got 31");
    CHECK(of({2, 3, 4, 8}, {95, 32, 8}) ==
          "the batch stride must step over what a batch holds: wanted 96, got 95");
    CHECK(of({2, 3, 4, 8}, {96, 32, 8}) == "fits");
    // As many tokens as the limit of the address space allows, and one more.
    const rw::index most = (std::numeric_limits<rw::index>::max() / 16 - 8) / 8 + 1;
    CHECK(of({1, most, 1, 8}, {.token = 8}) ==
          "rows must be one per token (batches * tokens): wanted " + std::to_string(most) + ", got 6");
    CHECK(of({1, most + 1, 1, 8}, {.token = 8}) ==
          "extents times strides must fit the address space, extent: wanted 1, got " +
              std::to_string(most + 1));
    CHECK(of({2, 3, 4, 8}, {8, 64, 16}) == "fits");    // batches inside heads inside tokens
    CHECK(of({2, 3, 4, 8}, {-96, -32, 8}) == "fits");  // backwards
    CHECK(of({1, 6, 4, 8}, {0, 8, 48}) == "fits");     // heads first
    CHECK(of({1, 6, 1, 8}, {0, 8, 0}) == "fits");      // one head needs no stride
    CHECK(of({1, 6, 4, 8}, {0, std::numeric_limits<rw::index>::max() / 2, 8}) ==
          "extents times strides must fit the address space, extent: wanted 1, got 6");
    const rw::index many = std::numeric_limits<rw::index>::max() / 4;
    const rw::heads_view<float> huge(memory.data(), {many, 64, 1, 8}, {8, 8, 8});
    CHECK(text(rw::fit(rw::half_split{}, huge, table)) ==
          "batches * tokens must fit the address space, batches: wanted 1, got " + std::to_string(many));
    CHECK(of({1, 6, 4, 8}, {0, std::numeric_limits<rw::index>::min(), 8}) ==
          "extents times strides must fit the address space, extent: wanted 1, got 6");
    // Products that only a wider index holds, in the usual order of the strides.
    const rw::index far = many / 4;
    CHECK(of({1, 6, 1, 8}, {0, far, 8}) ==
          "extents times strides must fit the address space, extent: wanted 1, got 6");
}

TEST_CASE("fit: rows of single heads are those of as many heads, and are sliced with them",
          "[kernels][fit]") {
    std::vector<float> memory(4096);
    std::vector<double> omega(4 * 4);
    for (std::size_t i = 0; i < omega.size(); ++i) omega[i] = 0.1 * double(i);
    const auto s = rw::spectrum::selected(omega, {}, 1, 4);
    const auto table = rw::make_rotation_table(s, rw::position_ids::text(3));
    const rw::heads_view<float> x(memory.data(), 3, 4, 8);
    CHECK(rw::fit(rw::interleaved{}, x, table).ok());
    CHECK(text(rw::fit(rw::interleaved{}, x.head_slice(2, 2), table)) ==
          "rows with heads of their own must be as many as the heads of the view: wanted 2, got 4");
    CHECK(rw::fit(rw::interleaved{}, x.head_slice(2, 2), table.rows().head_slice(2, 2)).ok());
    CHECK_FALSE(rw::fit(rw::interleaved{}, x.head_slice(2, 2), table.rows().head_slice(3, 2)).ok());
}

TEST_CASE("fit: a scheme knows its heads, its slice and its pairs", "[kernels][fit]") {
    std::vector<float> memory(4096);
    const rw::rotary_scheme rope{.head_dim = 48, .first_channel = 16, .rotary_dim = 32};
    const auto right = rw::frequencies::geometric({.rotary_dim = 32});
    const auto wrong = rw::frequencies::geometric({.rotary_dim = 48});
    const std::vector<int> positions{0, 1, 2};
    const rw::heads_view<float> x(memory.data(), 3, 2, 48);
    CHECK(rw::fit(rope, x, rw::rows_on_the_fly(right, positions)).ok());
    CHECK(rw::fit(rope, x.channel_slice(16, 32), rw::rows_on_the_fly(right, positions)).ok());
    CHECK(text(rw::fit(rope, x, rw::rows_on_the_fly(wrong, positions))) ==
          "pairs of the rows must be half the rotary_dim of the scheme: wanted 16, got 24");
    CHECK(text(rw::fit(rope, x.channel_slice(0, 40), rw::rows_on_the_fly(right, positions))) ==
          "channels must be the head_dim or the rotary_dim of the scheme: wanted 48, got 40");
    auto still = rope;
    still.rotates = false;
    CHECK(rw::fit(still, x.channel_slice(0, 40), rw::rows_on_the_fly(wrong, positions)).ok());
    const rw::layout_slice last{.read = rw::interleaved{}, .first_channel = 17};
    CHECK(text(rw::fit(last, x, rw::rows_on_the_fly(right, positions))) ==
          "first_channel + 2 * pairs must be at most the channels: wanted 48, got 49");
    const auto wide = rw::frequencies::geometric({.rotary_dim = 1026});
    std::vector<float> long_head(3 * 1026);
    CHECK(text(rw::fit(rw::half_split{}, rw::heads_view<float>(long_head.data(), 3, 1, 1026),
                       rw::rows_on_the_fly(wide, positions))) ==
          "pairs must be at most what rows of this kind can hold: wanted 512, got 513");
}

TEST_CASE("fit: a part that is none of the parts", "[kernels][fit]") {
    CHECK(text(rw::detail::fit_part({4, 4})) == "part must be at most parts - 1: wanted 3, got 4");
    CHECK(text(rw::detail::fit_part({4, -1})) == "part must be at most parts - 1: wanted 3, got -1");
    CHECK(text(rw::detail::fit_part({0, 0})) == "parts must be >= 1: wanted 1, got 0");
    CHECK(rw::detail::fit_part({4, 3}).ok());
}
