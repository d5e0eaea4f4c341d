// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary schemes of SAM 2 memory attention and SAM 3: 2-D axial RoPE, column first, interleaved pairs.
#pragma once

#include <cmath>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// SAM 2 memory attention and SAM 3: 2-D axial RoPE, column first, interleaved pairs.
/// Source: SAM 2, Ravi et al. 2024; facebookresearch/sam2 sam2/modeling/position_encoding.py;
///         facebookresearch/sam3 sam3/sam/rope.py, sam3/model/vitdet.py.
namespace ROPEWALK_NAMESPACE::sam {

struct axial_config {
    index head_dim = 256;  ///< 256 in memory attention, 64 in SAM 3's image encoder
    double base = 1e4;
};

/// The scheme of SAM 2 and SAM 3, in memory attention and in the image encoder.
/// Throws: invalid_config when head_dim is not a multiple of 4.
/// Source: facebookresearch/sam2 sam2/modeling/position_encoding.py, compute_axial_cis.
inline rotary_scheme axial(const axial_config& config) {
    return make_axial_scheme({.name = "sam::axial",
                              .head_dim = config.head_dim,
                              .base = config.base,
                              .first = first_axis::column,
                              .layout = interleaved{}});
}

struct patches_config {
    index height = 0;
    index width = 0;
    double scale = 1;        ///< window / grid in SAM 3's global blocks, else 1
    double offset = 0;       ///< added to row and column
    index class_tokens = 0;  ///< before the patches, not rotated
};

/// Positions of the tokens of a frame, a window or an image: j * scale + offset on each axis.
/// Throws: invalid_config on negative sizes or numbers that are not finite.
/// Source: facebookresearch/sam3 sam3/sam/rope.py, init_t_xy.
inline position_ids patches(const patches_config& config) {
    constexpr const char* who = "sam::patches";
    detail::require_grid(who, {.height = config.height, .width = config.width});
    detail::require_finite(who, "scale", config.scale);
    detail::require_finite(who, "offset", config.offset);
    detail::require_count(who, "class_tokens", config.class_tokens);
    return positions::grid(
        {.height = config.height, .width = config.width, .prefix_tokens = config.class_tokens},
        positions::evenly_spaced(config.height, config.offset, config.scale),
        positions::evenly_spaced(config.width, config.offset, config.scale));
}

/// The square grid that the official memory attention rebuilds when the number of queries changes.
/// Throws: invalid_config when tokens is not a square number: use patches({.height, .width}) then.
/// Source: facebookresearch/sam2 sam2/modeling/sam/transformer.py, RoPEAttention.
inline position_ids square_patches(index tokens) {
    const auto side =
        static_cast<index>(std::lround(std::sqrt(static_cast<double>(std::max<index>(tokens, 0)))));
    // By division: with a huge number of tokens, side * side overflows an index.
    const bool square = tokens == 0 || (side > 0 && tokens % side == 0 && tokens / side == side);
    detail::require(square, "sam::square_patches", "tokens must be a square number", tokens);
    return patches({.height = side, .width = side});
}

struct ve_patches_config {
    index side = 0;          ///< patches per side of this image (seq_len)
    index trained_side = 0;  ///< patches per side in training (pt_seq_len); 0: as side
    double offset = 1;       ///< added to row and column
};

/// VisionRotaryEmbeddingVE's square grid: j * (trained side / side) + offset.
/// Throws: invalid_config on side < 1, trained_side < 0 or an offset that is not finite.
/// Source: facebookresearch/sam3 sam3/sam/rope.py, VisionRotaryEmbeddingVE.
inline position_ids ve_patches(const ve_patches_config& config) {
    constexpr const char* who = "sam::ve_patches";
    detail::require_count(who, "side", config.side, 1);
    detail::require_count(who, "trained_side", config.trained_side);
    detail::require_finite(who, "offset", config.offset);
    const index trained = config.trained_side == 0 ? config.side : config.trained_side;
    return patches({.height = config.side,
                    .width = config.side,
                    .scale = static_cast<double>(trained) / static_cast<double>(config.side),
                    .offset = config.offset});
}

struct memory_keys_config {
    index queries = 0;    ///< tokens of a frame, which are the rows of the table
    index keys = 0;       ///< memory frames, then object pointers
    index excluded = 0;   ///< trailing keys that are not rotated (num_k_exclude_rope)
    bool repeats = true;  ///< rope_k_repeat: the keys are several frames
};

/// The table rows of the keys in memory attention. Every memory frame reads the rows of the queries again,
/// since time is not an axis; object pointers are untouched. There may be no keys to rotate.
/// Shapes:   [keys], into a table of `queries` rows.
/// Throws:   invalid_config when excluded is not in 0 .. keys, when the rotated keys are not whole frames, or
///           when, without repeats, they are not as many as the queries.
/// Source:   facebookresearch/sam2 sam2/modeling/sam/transformer.py, RoPEAttention.
///
///     const auto rows = sam::memory_key_rows({.queries = 4096, .keys = 28736, .excluded = 64});
///     rotate(rope, q, table);  rotate(rope, k, table.rows(rows));
inline std::vector<std::int32_t> memory_key_rows(const memory_keys_config& config) {
    constexpr const char* who = "memory_key_rows";
    detail::require_count(who, "queries", config.queries);
    detail::require_count(who, "keys", config.keys);
    detail::require(config.excluded >= 0 && config.excluded <= config.keys, who,
                    "excluded must be >= 0 and at most keys", config.excluded);
    const index rotated = config.keys - config.excluded;
    detail::require(rotated == 0 || (config.queries > 0 && rotated % config.queries == 0), who,
                    "keys less excluded must be a multiple of queries", rotated);
    detail::require(config.repeats || rotated == 0 || rotated == config.queries, who,
                    "keys less excluded must be queries unless keys repeat", rotated);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(config.keys), untouched_row);
    for (index j = 0; j < rotated; ++j)
        rows[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(j % config.queries);
    return rows;
}

}  // namespace ROPEWALK_NAMESPACE::sam
