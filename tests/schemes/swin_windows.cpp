// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/swin_windows.hpp>

#include <set>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using rw::rope_vit::make_swin_windows;

TEST_CASE("swin_windows: every patch once, neighbours of a window are neighbours of the picture or apart",
          "[schemes][rope_vit]") {
    for (const rw::index shift : {0, 1, 2}) {
        const rw::index height = 6, width = 9, window = 3, each = window * window;
        const auto cut = make_swin_windows({height, width, window, shift});
        CHECK(cut.count == 6);
        CHECK(std::set<rw::index>(cut.order.begin(), cut.order.end()).size() == 54);
        REQUIRE(cut.order.size() == 54);
        REQUIRE(cut.regions.size() == 54);
        REQUIRE(cut.positions.tokens() == each);
        rw::index split = 0;
        for (rw::index w = 0; w < cut.count; ++w)
            for (rw::index i = 0; i < each; ++i)
                for (rw::index j = 0; j < each; ++j) {
                    const rw::index a = cut.order[std::size_t(w * each + i)],
                                    b = cut.order[std::size_t(w * each + j)];
                    const double rows = double(a / width - b / width),
                                 columns = double(a % width - b % width);
                    // Inside a region the table's differences are those of the picture.
                    const bool together =
                        cut.regions[std::size_t(w * each + i)] == cut.regions[std::size_t(w * each + j)];
                    const bool close = cut.positions.at(i, 0) - cut.positions.at(j, 0) == rows &&
                                       cut.positions.at(i, 1) - cut.positions.at(j, 1) == columns;
                    CHECK(together == close);
                    split += !together;
                }
        CHECK((split == 0) == (shift == 0));
    }
    CHECK(make_swin_windows({0, 0, 7, 3}).count == 0);
    CHECK_REFUSES("make_swin_windows: height must be a multiple of the window, got 8",
                  make_swin_windows({8, 7, 7, 0}));
    CHECK_REFUSES("make_swin_windows: shift must be 0 to window - 1, got 7", make_swin_windows({7, 7, 7, 7}));
    CHECK_REFUSES("make_swin_windows: window must be >= 1, got 0", make_swin_windows({7, 7, 0, 0}));
}
