// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Windows of a Swin transformer with RoPE: the order of patches, the regions of the shift, and positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/positions/grid.hpp>

namespace ROPEWALK_NAMESPACE::rope_vit {

/// How an image is cut into attention windows.
struct swin_config {
    index height = 0;  ///< patches; multiples of the window
    index width = 0;
    index window = 7;  ///< patches per side of a window
    index shift = 0;   ///< patches; window / 2 in the shifted blocks
};

/// Attention windows as batches.
/// Shapes:   order [windows * window * window]: the patch (row * width + column) of each slot. regions, of
///           the same length: numbers that differ where patches are neighbours only because the shift wraps
///           around; a document_mask keeps them apart. positions [window * window, 2]: the same for every
///           window, so the rows of one window are repeated.
struct swin_windows {
    index count = 0;                           ///< windows
    std::vector<index> order = {};             ///< patches, window by window
    std::vector<std::int32_t> regions = {};    ///< patches of one region attend to each other
    position_ids positions = position_ids(2);  ///< row and column inside a window
};

/// The windows of a block of a Swin transformer with RoPE. The rotation reads a patch's position inside its
/// window. Scores depend only on position differences, so one small table serves all windows and every shift.
/// Throws:   invalid_config on a window that is not positive, sizes that are not multiples of it, or a shift
///           outside 0 .. window - 1.
/// Source:   Swin, Liu et al. 2021; naver-ai/rope-vit models/swin_transformer_rope.py.
///
///     const auto cut = rope_vit::make_swin_windows({.height = 56, .width = 56, .window = 7, .shift = 3});
///     // gather patches by cut.order as [cut.count, 49] tokens; rotate by table.rows().repeated(cut.count);
///     // attend(document_mask{cut.regions}, ...)
inline swin_windows make_swin_windows(const swin_config& c) {
    constexpr const char* who = "make_swin_windows";
    detail::require_grid(who, {.height = c.height, .width = c.width});
    detail::require(c.window >= 1, who, "window must be >= 1", c.window);
    detail::require(c.height % c.window == 0, who, "height must be a multiple of the window", c.height);
    detail::require(c.width % c.window == 0, who, "width must be a multiple of the window", c.width);
    detail::require(c.shift >= 0 && c.shift < c.window, who, "shift must be 0 to window - 1", c.shift);
    swin_windows cut;
    cut.count = c.height / c.window * (c.width / c.window);
    if (cut.count > 0) cut.positions = positions::grid({.height = c.window, .width = c.window});
    // A side of the shifted image has three parts: whole windows, the part of the last one that has not
    // moved, and the part that wrapped around.
    const auto part = [&](index at, index size) {
        if (c.shift == 0 || at < size - c.window) return 0;
        return at < size - c.shift ? 1 : 2;
    };
    for (index top = 0; top < c.height; top += c.window)
        for (index left = 0; left < c.width; left += c.window)
            for (index y = top; y < top + c.window; ++y)
                for (index x = left; x < left + c.window; ++x) {
                    cut.order.push_back((y + c.shift) % c.height * c.width + (x + c.shift) % c.width);
                    cut.regions.push_back(
                        static_cast<std::int32_t>(3 * part(y, c.height) + part(x, c.width)));
                }
    return cut;
}

}  // namespace ROPEWALK_NAMESPACE::rope_vit
