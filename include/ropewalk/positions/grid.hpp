// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Positions of image patches: grids of rows and columns, window orders, and selections of tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// The order of the tokens of an image.
/// row_major:    the column index changes fastest.
/// merge_blocks: the tokens of each merge x merge block are adjacent (Qwen2-VL), rows of blocks outermost.
enum class patch_order : std::uint8_t { row_major, merge_blocks };

/// The most coordinates one side may have, 1 GiB of doubles: a hostile size is refused before anything is
/// allocated.
inline constexpr index most_coordinates = index{1} << 27;

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// Refuses a count of rows, columns or tokens, under the name that its caller uses for it.
inline void require_count(const char* who, const std::string& name, index count, index least = 0) {
    require(count >= least, who, (name + " must be >= " + std::to_string(least)).c_str(), count);
    require(count <= positions::most_coordinates, who,
            (name + " must be at most " + std::to_string(positions::most_coordinates)).c_str(), count);
}
inline void require_finite(const char* who, const std::string& name, double value) {
    require(std::isfinite(value), who, (name + " must be finite").c_str(), value);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// `count` numbers first, first + step, ...: the coordinates of one side of a grid.
/// Throws: invalid_config on a count that is negative or above most_coordinates.
inline std::vector<double> evenly_spaced(index count, double first = 0, double step = 1) {
    detail::require_count("evenly_spaced", "count", count);
    std::vector<double> at(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < at.size(); ++i) at[i] = first + static_cast<double>(i) * step;
    return at;
}

struct grid_config {
    index height = 0;                            ///< patches in a column of the image
    index width = 0;                             ///< patches in a row
    index frames = 1;                            ///< how often the grid repeats; time is not an axis here
    index merge = 1;                             ///< side of a merge block
    patch_order order = patch_order::row_major;  ///< merge is used by merge_blocks only
    index prefix_tokens = 0;                     ///< untouched tokens before the patches (class, registers)
    index suffix_tokens = 0;                     ///< untouched tokens after them
};

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// Refuses a grid, under the name of the function that was called (the patches() of a scheme).
inline void require_grid(const char* who, const positions::grid_config& config) {
    require_count(who, "height", config.height);
    require_count(who, "width", config.width);
    require_count(who, "frames", config.frames);
    require_count(who, "merge", config.merge, 1);
    require_count(who, "prefix_tokens", config.prefix_tokens);
    require_count(who, "suffix_tokens", config.suffix_tokens);
    if (config.order == positions::patch_order::row_major) return;
    require(config.height % config.merge == 0, who, "height must be a multiple of merge", config.height);
    require(config.width % config.merge == 0, who, "width must be a multiple of merge", config.width);
}

/// Refuses a grid whose tokens must be listed one by one and are too many.
inline void require_listed(const char* who, index frames, index height, index width) {
    const index tokens =
        checked_product(who, "frames x height x width must be >= 0", {frames, height, width});
    require_count(who, "frames x height x width", tokens);
}

inline position_ids between_untouched(const positions::grid_config& config, position_segment patches) {
    position_ids ids(2);
    if (config.prefix_tokens != 0) ids.append(untouched_run{config.prefix_tokens});
    ids.append(std::move(patches));
    if (config.suffix_tokens != 0) ids.append(untouched_run{config.suffix_tokens});
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// The tokens of an image: axis 0 is the row (y, h), axis 1 the column (x, w), in whatever order the
/// frequencies of a scheme use them.
/// Shapes:   [prefix + frames * height * width + suffix, 2].
/// Requires: rows holds height coordinates, columns width of them; any finite numbers.
/// Throws:   invalid_config on sizes that are negative or above most_coordinates, on a wrong number of
///           coordinates, or on a height or width that is not a multiple of merge in merge_blocks order.
/// Cost:     row_major: O(height + width), stored as a grid block. merge_blocks with other than evenly spaced
///           coordinates: a list of all tokens, since such a coordinate is not a sum of one number for the
///           block and one for the patch inside it.
/// Source:   merge blocks: Qwen2-VL, Wang et al. 2024.
inline position_ids grid(const grid_config& config, std::vector<double> rows, std::vector<double> columns) {
    constexpr const char* who = "grid";
    detail::require_grid(who, config);
    detail::require_equal(who, "rows must hold one coordinate a row of the grid", config.height, rows.size());
    detail::require_equal(who, "columns must hold one coordinate a column of the grid", config.width,
                          columns.size());
    if (config.order == patch_order::row_major)
        return detail::between_untouched(config,
                                         grid_block{{config.frames, config.height, config.width},
                                                    {{{}, std::move(rows), {}}, {{}, {}, std::move(columns)}},
                                                    {}});
    detail::require_listed(who, config.frames, config.height, config.width);
    listed_run run;
    const index m = config.merge;
    for (index f = 0; f < config.frames; ++f)
        for (index top = 0; top < config.height; top += m)
            for (index left = 0; left < config.width; left += m)
                for (index i = 0; i < m * m; ++i) {
                    run.values.push_back(rows[static_cast<std::size_t>(top + i / m)]);
                    run.values.push_back(columns[static_cast<std::size_t>(left + i % m)]);
                }
    return detail::between_untouched(config, std::move(run));
}

/// The same with rows 0, 1, ... and columns 0, 1, ...: always stored as a grid block.
/// Throws: invalid_config on the same sizes.
/// Source: RoPE-ViT, Heo et al. 2024.
///
///     const auto where = positions::grid({.height = 14, .width = 14, .prefix_tokens = 1});
inline position_ids grid(const grid_config& config) {
    detail::require_grid("grid", config);
    if (config.order == patch_order::row_major)
        return grid(config, evenly_spaced(config.height), evenly_spaced(config.width));
    const index m = config.merge;
    const auto blocks = [m](index side) { return evenly_spaced(side / m, 0, static_cast<double>(m)); };
    const auto inside = evenly_spaced(m);
    return detail::between_untouched(
        config,
        grid_block{{config.frames, config.height / m, config.width / m, m, m},
                   {{{}, blocks(config.height), {}, inside, {}}, {{}, {}, blocks(config.width), {}, inside}},
                   {}});
}

/// Selected tokens of a sequence, in the given order: patches kept by patch dropout, tokens permuted into
/// attention windows, the shard of one rank.
/// Shapes:   tokens [count], each below ids.tokens(); an untouched token stays untouched.
/// Throws:   invalid_config on a token outside the sequence.
/// Cost:     O(count * axes).
/// Source:   EVA-CLIP's patch dropout and Qwen2.5-VL's window order gather positions like this.
template <class I>
position_ids select_tokens(const position_ids& ids, std::span<const I> tokens) {
    position_ids out(ids.axes());
    listed_run run;
    index skipped = 0;
    const auto flush = [&] {
        if (!run.values.empty()) out.append(std::exchange(run, {}));
        if (skipped != 0) out.append(untouched_run{std::exchange(skipped, index{0})});
    };
    for (const I token : tokens) {
        detail::require(token >= 0 && static_cast<index>(token) < ids.tokens(), "select_tokens",
                        "tokens must name tokens of the sequence", token);
        const bool touched = ids.touched(static_cast<index>(token));
        if (touched ? skipped != 0 : !run.values.empty()) flush();
        if (!touched) {
            ++skipped;
            continue;
        }
        for (index a = 0; a < ids.axes(); ++a) run.values.push_back(ids.at(static_cast<index>(token), a));
    }
    flush();
    return out;
}

struct window_config {
    index frames = 1;
    index height = 0;  ///< in patches
    index width = 0;
    index merge = 2;   ///< side of a merge block
    index window = 4;  ///< side of an attention window, in merge blocks
};

/// The order of the tokens of a merge-ordered grid after they are gathered into attention windows: the
/// argument of select_tokens, and for gathering the tokens themselves. Windows are row-major, the blocks
/// inside a window are row-major, and windows at the right and bottom edges are cut short.
/// Shapes:   [frames * height * width].
/// Throws:   invalid_config on sizes < 1 or a height or width that is not a multiple of merge.
/// Source:   Hugging Face models/qwen2_5_vl, get_window_index.
inline std::vector<std::int32_t> window_order(const window_config& config) {
    constexpr const char* who = "window_order";
    detail::require(config.merge >= 1, who, "merge must be >= 1", config.merge);
    detail::require(config.window >= 1, who, "window must be >= 1", config.window);
    detail::require(config.frames >= 0, who, "frames must be >= 0", config.frames);
    detail::require(config.height >= 0 && config.height % config.merge == 0, who,
                    "height must be a multiple of merge", config.height);
    detail::require(config.width >= 0 && config.width % config.merge == 0, who,
                    "width must be a multiple of merge", config.width);
    detail::require_listed(who, config.frames, config.height, config.width);
    const index rows = config.height / config.merge;
    const index columns = config.width / config.merge;
    const index unit = config.merge * config.merge;
    // A window larger than the image is the whole image.
    const index window = std::min(config.window, std::max<index>({rows, columns, 1}));
    std::vector<std::int32_t> order;
    for (index f = 0; f < config.frames; ++f)
        for (index top = 0; top < rows; top += window)
            for (index left = 0; left < columns; left += window)
                for (index r = top; r < std::min(rows, top + window); ++r)
                    for (index c = left; c < std::min(columns, left + window); ++c)
                        for (index i = 0; i < unit; ++i)
                            order.push_back(
                                static_cast<std::int32_t>(((f * rows + r) * columns + c) * unit + i));
    return order;
}

/// The same tokens shifted by a constant on every axis; untouched tokens stay untouched.
/// Shapes:   offset [axes].
/// Throws:   invalid_config if offset has another length or is not finite.
/// Cost:     O(segments), for lists O(tokens).
/// Source:   FreeFlux, Wei et al. 2025, probes layers with shifted keys.
inline position_ids shifted(const position_ids& ids, std::span<const double> offset) {
    detail::require_equal("shifted", "offset must hold one number an axis", ids.axes(), offset.size());
    position_ids out(ids.axes());
    for (position_segment segment : ids.segments()) {
        if (auto* grid = segment.grid()) {
            grid->origin.resize(offset.size());
            for (std::size_t a = 0; a < offset.size(); ++a) grid->origin[a] += offset[a];
        } else if (auto* listed = segment.listed()) {
            for (std::size_t i = 0; i < listed->values.size(); ++i)
                listed->values[i] += offset[i % offset.size()];
        } else if (auto* text = segment.text()) {
            // A text run has one number for all axes; a grid block has one for each axis.
            grid_block block{{text->tokens}, {}, {offset.begin(), offset.end()}};
            block.coordinates.assign(offset.size(), {evenly_spaced(text->tokens, text->first, text->step)});
            segment = std::move(block);
        }
        out.append(std::move(segment));
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::positions
