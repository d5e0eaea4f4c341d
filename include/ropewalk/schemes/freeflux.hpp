// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <array>
#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/flux.hpp>

/// FreeFlux: which layers of FLUX depend on position is found by changing the rotation of the keys in one
/// layer at a time, while queries keep theirs.
/// Source: FreeFlux, Wei et al. 2025; wtybest/FreeFlux probing/probing_attn_utils.py, editing/.
namespace ROPEWALK_NAMESPACE::freeflux {

/// What happens to the keys of a layer at a step. shifted: image ids move by (rows, columns); text stays.
enum class key_mode : std::uint8_t { normal, not_rotated, shifted };

/// A change of the keys: of what kind and, for shifted, by how much.
struct key_change {
    key_mode mode = key_mode::normal;  ///< what happens to the keys
    double rows = 0;                   ///< shift in rows
    double columns = 0;                ///< shift in columns

    bool operator==(const key_change&) const = default;
};

}  // namespace ROPEWALK_NAMESPACE::freeflux

namespace ROPEWALK_NAMESPACE::detail {

inline void require_change(const char* who, const freeflux::key_change& change) {
    require(change.mode <= freeflux::key_mode::shifted, who, "mode must be a mode of keys",
            static_cast<int>(change.mode));
    require(std::isfinite(change.rows), who, "rows must be finite", change.rows);
    require(std::isfinite(change.columns), who, "columns must be finite", change.columns);
}

/// (image, row, column, ...): only rows and columns move.
inline std::vector<double> shift_of(const freeflux::key_change& change, index axes) {
    std::vector<double> offset(static_cast<std::size_t>(axes));
    offset[1] = change.rows;
    offset[2] = change.columns;
    return offset;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::freeflux {

/// The four manipulations of the paper.
/// Source: wtybest/FreeFlux probing/gen_rope_probing_dataset.py.
inline constexpr std::array<key_change, 4> probes = {{{key_mode::not_rotated, 0, 0},
                                                      {key_mode::shifted, 10, 10},
                                                      {key_mode::shifted, 0, 20},
                                                      {key_mode::shifted, 64, 0}}};

/// FLUX.1's attention layers in the order they run (0 .. 18 double blocks, 19 .. 56 single blocks), and the
/// steps of a denoising run in the paper: keys and values are injected at all of them.
/// Source: wtybest/FreeFlux probing/ and editing/.
inline constexpr int flux_layers = 57;
inline constexpr int denoising_steps = 50;  ///< denoising steps of an image
/// Edits that keep a region (background replacement, object moves, outpainting) inject values in every
/// layer at steps 0 .. 44 and leave the last ones alone.
/// Source: wtybest/FreeFlux editing/bg_replace.
inline constexpr int region_preserved_steps = 45;

/// The layers of the released editing notebooks: injected for non-rigid edits, and for added objects.
/// Source: wtybest/FreeFlux editing/.
inline constexpr std::array<int, 13> content_similarity_layers = {0,  7,  8,  9,  10, 18, 25,
                                                                  28, 37, 42, 45, 50, 56};
/// The layers that react most to moved positions.
inline constexpr std::array<int, 7> position_dependent_layers = {1, 2, 4, 26, 30, 54, 55};

/// Where an added object is looked for: the layers, and the step up to which the edit runs beforehand
/// (attention/object_mask.hpp does the looking).
/// Source: wtybest/FreeFlux editing/utils.py, derive_fg_mask_from_attn.
inline constexpr std::array<int, 4> object_layers = {40, 41, 42, 43};
/// The eighth step, counted from 0 as every step here.
inline constexpr int object_step = 7;

/// Which change a cell (layer, step) of the denoising run gets; normal where nothing was set.
/// Throws:   invalid_config on layers or steps < 1, cells outside them, or a shift that is not finite.
/// Source:   wtybest/FreeFlux probing/probing_attn_utils.py.
///
///     freeflux::key_policy policy(freeflux::flux_layers, freeflux::denoising_steps);
///     policy.set_layer(26, freeflux::probes[0]);       // one layer, all steps
class key_policy {
  public:
    key_policy(index layers, index steps) : layers_(layers), steps_(steps) {
        detail::require(layers >= 1, "key_policy", "layers must be >= 1", layers);
        detail::require(steps >= 1, "key_policy", "steps must be >= 1", steps);
        cells_.resize(static_cast<std::size_t>(
            detail::checked_product("key_policy", "layers and steps must be >= 1", {layers, steps})));
    }
    /// One layer, all steps.
    void set_layer(index layer, key_change change) {
        for (index step = 0; step < steps_; ++step) set_cell(layer, step, change);
    }
    /// One layer at one step.
    void set_cell(index layer, index step, key_change change) {
        detail::require_change("key_policy", change);
        cells_[cell(layer, step)] = change;
    }
    /// What was set there.
    key_change at(index layer, index step) const { return cells_[cell(layer, step)]; }
    index layers() const noexcept { return layers_; }
    /// Denoising steps the policy is for.
    index steps() const noexcept { return steps_; }

  private:
    std::size_t cell(index layer, index step) const {
        detail::require(layer >= 0 && layer < layers_, "key_policy", "layer must be below layers", layer);
        detail::require(step >= 0 && step < steps_, "key_policy", "step must be below steps", step);
        return static_cast<std::size_t>(layer * steps_ + step);
    }
    index layers_, steps_;
    std::vector<key_change> cells_;
};

/// The keys' positions under a change. Text tokens are the untouched ones of flux::flux1_positions and
/// flux::positions_of_ids, and the first `text_tokens` of any others. Under not_rotated every token is
/// untouched: normalize_and_rotate then needs untouched_tokens::normalised, as for FLUX's text.
/// Throws:   invalid_config when the positions have no axes for (image, row, column), text_tokens is not in
///           0 .. ids.tokens(), or a shift is not finite.
/// Source:   wtybest/FreeFlux probing/probing_attn_utils.py.
inline position_ids key_positions(const position_ids& ids, const key_change& change, index text_tokens = 0) {
    constexpr const char* who = "freeflux::key_positions";
    detail::require(ids.axes() >= 3, who, "ids must have the axes (image, row, column)", ids.axes());
    detail::require(text_tokens >= 0 && text_tokens <= ids.tokens(), who,
                    "text_tokens must be >= 0 and at most the tokens of ids", text_tokens);
    detail::require_change(who, change);
    if (change.mode == key_mode::normal) return ids;
    if (change.mode == key_mode::not_rotated) {
        position_ids none(ids.axes());
        none.append(untouched_run{ids.tokens()});
        return none;
    }
    const position_ids moved = positions::shifted(ids, detail::shift_of(change, ids.axes()));
    if (text_tokens == 0) return moved;
    std::vector<std::int64_t> text, image;
    for (std::int64_t n = 0; n < ids.tokens(); ++n) (n < text_tokens ? text : image).push_back(n);
    position_ids joined = positions::select_tokens(ids, std::span<const std::int64_t>(text));
    return joined.append(positions::select_tokens(moved, std::span<const std::int64_t>(image)));
}

/// One row that moves image keys which are already rotated by (rows, columns): R(p + s) = R(s) R(p). The way
/// back is the negative shift.
/// Throws:   invalid_config on a spectrum of fewer than three axes or numbers that are not finite.
/// Accuracy: one more rotation's rounding than rotating the keys at p + s.
/// Source:   R(p + s) = R(s) R(p).
///
///     const auto row = freeflux::make_shift_row<float>(rope.spectrum_for(1), {key_mode::shifted, 10, 10});
///     rotate(interleaved{}, image_keys, repeat_row(row, 0, image_keys.tokens()));
template <class T = float>
rotation_table<T> make_shift_row(const spectrum& s, const key_change& change) {
    detail::require(s.axes() >= 3, "make_shift_row", "spectrum must have the axes (image, row, column)",
                    s.axes());
    detail::require_change("make_shift_row", change);
    return make_rotation_table<T>(
        s, position_ids::from_tokens_axes(detail::shift_of(change, s.axes()), s.axes()));
}

}  // namespace ROPEWALK_NAMESPACE::freeflux
