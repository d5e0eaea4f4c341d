// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/fit_view.hpp>

#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace checks = ropewalk::ROPEWALK_ISA::detail;  // not the one of the views

namespace {

float memory[64];
rw::heads_view<float> view(rw::heads_shape shape, rw::heads_strides strides) {
    return {memory, shape, strides};
}
std::string readable(const rw::heads_view<float>& x) { return to_string(checks::fit_readable(x)); }
std::string writable(const rw::heads_view<float>& x) { return to_string(checks::fit_writable(x)); }

}  // namespace

TEST_CASE("fit_view: heads that meet may be read, not written", "[core][fit_view]") {
    const auto one_row = view({2, 3, 2, 8}, {});  // a row that every head shares
    CHECK(readable(one_row) == "fits");
    CHECK(writable(one_row) == "the head stride must step over what a head holds: wanted 8, got 0");
    CHECK(writable(view({1, 3, 1, 8}, {.token = 7})) ==
          "the token stride must step over what a token holds: wanted 8, got 7");
    CHECK(writable(view({1, 3, 1, 8}, {.token = 8})) == "fits");
    CHECK(writable(view({2, 3, 2, 8}, {-48, -16, -8})) == "fits");
    // Without channels there is nothing to share, and no stride to divide by.
    CHECK(writable(view({2, 3, 2, 0}, {})) == "fits");
    CHECK(to_string(checks::fit_strides({2, 3, 2, 0}, {})) == "fits");
    constexpr rw::index least = std::numeric_limits<rw::index>::min();
    for (const rw::heads_strides& far : {rw::heads_strides{least, 16, 8}, {48, least, 8}, {48, 16, least}})
        CHECK(checks::fit_strides({2, 2, 2, 8}, far).must ==
              std::string("extents times strides must fit the address space, extent"));
}

TEST_CASE("fit_view: extents and memory, of hot calls and of cold ones", "[core][fit_view]") {
    const auto x = view({1, 4, 2, 8}, {64, 16, 8});
    const std::string outside = "extents must be >= 0 (a slice outside its view has -1): wanted 0, got -1";
    for (const auto& slice : {x.token_slice(3, 2), x.head_slice(2, 1), x.channel_slice(0, 9)}) {
        CHECK(readable(slice) == outside);
        CHECK(writable(slice) == outside);
    }
    const rw::heads_view<float> nowhere(nullptr, 4, 2, 8);
    CHECK(readable(nowhere) == "data must not be null: wanted 1, got 0");
    CHECK(writable(nowhere) == "data must not be null: wanted 1, got 0");
    CHECK(writable(rw::heads_view<float>(nullptr, 0, 2, 8)) == "fits");
    CHECK_REFUSES("f: x: data must not be null: wanted 1, got 0",
                  checks::require_readable("f", "x", nowhere));
    CHECK_REFUSES("f: x: " + outside, checks::require_writable("f", "x", x.token_slice(3, 2)));
    CHECK_REFUSES("f: y: the token stride must step over what a token holds: wanted 16, got 15",
                  checks::require_writable("f", "y", view({1, 4, 2, 8}, {0, 15, 8})));
    CHECK_REFUSES("", checks::require_writable("f", "x", x));
}
