// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/sam.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace sam = ropewalk::sam;

TEST_CASE("SAM 2: repeated keys equal frames rotated one by one, pointers keep their bits",
          "[schemes][sam]") {
    const auto rope = sam::axial({.head_dim = 16});
    const auto table = rw::make_rotation_table(rope.spectrum_for(1), sam::patches({.height = 3, .width = 2}));
    support::heads_buffer<float> all({1, 3 * 6 + 5, 1, 16}), alone({1, 3 * 6 + 5, 1, 16});
    all.fill(4);
    alone.fill(4);
    const auto before = all.dense();
    const auto rows = sam::memory_key_rows({.queries = 6, .keys = 23, .excluded = 5});
    rw::rotate(rope, all.view(), table.rows(std::span<const std::int32_t>(rows)));
    for (rw::index f = 0; f < 3; ++f) rw::rotate(rope, alone.view().token_slice(6 * f, 6), table);
    CHECK(support::same_bits(all.dense(), alone.dense()));
    const auto after = all.dense();
    CHECK(std::equal(after.end() - 5 * 16, after.end(), before.end() - 5 * 16));
    CHECK(after != before);
}

TEST_CASE("SAM 2: no rotated keys is legal, parts of a frame are not", "[schemes][sam]") {
    CHECK(sam::memory_key_rows({.queries = 4, .keys = 2, .excluded = 2}) ==
          std::vector<std::int32_t>{-1, -1});
    CHECK(sam::memory_key_rows({.queries = 0, .keys = 0}).empty());
    CHECK_REFUSES("memory_key_rows: keys less excluded must be a multiple of queries, got 7",
                  sam::memory_key_rows({.queries = 4, .keys = 9, .excluded = 2}));
    CHECK_REFUSES("memory_key_rows: keys less excluded must be queries unless keys repeat, got 8",
                  sam::memory_key_rows({.queries = 4, .keys = 8, .repeats = false}));
    CHECK_REFUSES("memory_key_rows: excluded must be >= 0 and at most keys, got 9",
                  sam::memory_key_rows({.queries = 4, .keys = 8, .excluded = 9}));
}

TEST_CASE("SAM 3: the global table at multiples of 3 is the window's", "[schemes][sam]") {
    const auto global = sam::patches({.height = 72, .width = 72, .scale = 24.0 / 72});
    const auto window = sam::patches({.height = 24, .width = 24});
    for (rw::index r = 0; r < 24; ++r) {
        CHECK(global.at(3 * r * 72 + 6, 0) == Approx(window.at(r * 24 + 2, 0)).epsilon(1e-14));
        CHECK(global.at(3 * r * 72 + 6, 1) == Approx(2).epsilon(1e-14));
    }
}

TEST_CASE("SAM 3: the VE grid is scaled and starts at 1", "[schemes][sam]") {
    const auto where = sam::ve_patches({.side = 4, .trained_side = 2});
    CHECK(where.at(0, 0) == 1);
    CHECK(where.at(15, 0) == 2.5);
    CHECK(where.at(15, 1) == 2.5);
    CHECK(sam::ve_patches({.side = 3}).at(8, 1) == 3);
    CHECK_REFUSES("sam::ve_patches: side must be >= 1, got 0", sam::ve_patches({}));
}

TEST_CASE("SAM: a grid is rebuilt from squares only", "[schemes][sam]") {
    CHECK(sam::square_patches(9).values() == sam::patches({.height = 3, .width = 3}).values());
    CHECK(sam::square_patches(0).tokens() == 0);
    CHECK(sam::patches({.height = 3}).tokens() == 0);  // no side stands for 1
    CHECK(sam::patches({.width = 3}).tokens() == 0);
    CHECK_REFUSES("sam::square_patches: tokens must be a square number, got 12", sam::square_patches(12));
    CHECK_REFUSES("sam::square_patches: tokens must be a square number, got -4", sam::square_patches(-4));
    CHECK_REFUSES("sam::axial: head_dim must be a multiple of 4 and > 0, got 2", sam::axial({.head_dim = 2}));
}

TEST_CASE("SAM: what was given is refused by its name", "[schemes][sam][errors]") {
    CHECK_REFUSES("sam::patches: height must be >= 0, got -1", sam::patches({.height = -1, .width = 2}));
    CHECK_REFUSES("sam::patches: width must be at most 134217728, got " + support::largest_index(),
                  sam::patches({.height = 1, .width = PTRDIFF_MAX}));
    CHECK_REFUSES("sam::patches: scale must be finite, got nan",
                  sam::patches({.height = 2, .width = 2, .scale = std::nan("")}));
    CHECK_REFUSES("sam::patches: offset must be finite, got inf",
                  sam::patches({.height = 2, .width = 2, .offset = INFINITY}));
    CHECK_REFUSES("sam::patches: class_tokens must be >= 0, got -1",
                  sam::patches({.height = 2, .width = 2, .class_tokens = -1}));
    CHECK_REFUSES("sam::ve_patches: offset must be finite, got nan",
                  sam::ve_patches({.side = 2, .offset = std::nan("")}));
    CHECK_REFUSES("sam::square_patches: tokens must be a square number, got " + support::largest_index(),
                  sam::square_patches(PTRDIFF_MAX));
    CHECK_REFUSES("memory_key_rows: keys must be >= 0, got -4",
                  sam::memory_key_rows({.queries = 4, .keys = -4}));
}
