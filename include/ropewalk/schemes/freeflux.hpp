// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// FreeFlux: changes the rotation of keys in chosen layers and steps of FLUX, for probing and editing.
#pragma once

#include <array>
#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/flux.hpp>

/// FreeFlux finds which layers of FLUX depend on position: it changes the rotation of the keys in one layer
/// at a time, while the queries keep theirs.
/// Source: FreeFlux, Wei et al. 2025; wtybest/FreeFlux probing/probing_attn_utils.py, editing/.
namespace ROPEWALK_NAMESPACE::freeflux {

/// What happens to the keys of a layer at a denoising step. shifted: image positions move by (rows, columns);
/// text does not.
enum class key_mode : std::uint8_t { normal, not_rotated, shifted };

/// A change of the keys: its kind and, for shifted, its size in patches.
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

/// The shift over the axes (image, row, column, ...): only rows and columns move.
inline std::vector<double> shift_of(const freeflux::key_change& change, index axes) {
    std::vector<double> offset(static_cast<std::size_t>(axes));
    offset[1] = change.rows;
    offset[2] = change.columns;
    return offset;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::freeflux {

/// The four changes that the paper probes with.
/// Source: wtybest/FreeFlux probing/gen_rope_probing_dataset.py.
inline constexpr std::array<key_change, 4> probes = {{{key_mode::not_rotated, 0, 0},
                                                      {key_mode::shifted, 10, 10},
                                                      {key_mode::shifted, 0, 20},
                                                      {key_mode::shifted, 64, 0}}};

/// The number of FLUX.1's attention layers, counted in the order they run (0 .. 18 double blocks, 19 .. 56
/// single blocks), and the number of denoising steps in the paper, which injects keys and values at all of
/// them.
/// Source: wtybest/FreeFlux probing/ and editing/.
inline constexpr int flux_layers = 57;
inline constexpr int denoising_steps = 50;  ///< denoising steps of an image
/// Steps of edits that keep a region (background replacement, object moves, outpainting): they inject values
/// in every layer at steps 0 .. 44 and not at the last five.
/// Source: wtybest/FreeFlux editing/bg_replace.
inline constexpr int region_preserved_steps = 45;

/// The layers into which the released notebooks inject keys and values for non-rigid edits.
/// Source: wtybest/FreeFlux editing/.
inline constexpr std::array<int, 13> content_similarity_layers = {0,  7,  8,  9,  10, 18, 25,
                                                                  28, 37, 42, 45, 50, 56};
/// The same for added objects: the layers that react most to shifted positions.
inline constexpr std::array<int, 7> position_dependent_layers = {1, 2, 4, 26, 30, 54, 55};

/// The layers in which an added object is located, and the step up to which the edit runs beforehand
/// (attention/object_mask.hpp locates it).
/// Source: wtybest/FreeFlux editing/utils.py, derive_fg_mask_from_attn.
inline constexpr std::array<int, 4> object_layers = {40, 41, 42, 43};
/// The eighth step, counted from 0 like every step here.
inline constexpr int object_step = 7;

/// The change of the keys in each layer at each denoising step; normal where nothing was set.
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
    /// Sets one layer at all steps.
    void set_layer(index layer, key_change change) {
        for (index step = 0; step < steps_; ++step) set_cell(layer, step, change);
    }
    /// Sets one layer at one step.
    void set_cell(index layer, index step, key_change change) {
        detail::require_change("key_policy", change);
        cells_[cell(layer, step)] = change;
    }
    /// The change of a layer at a step.
    key_change at(index layer, index step) const { return cells_[cell(layer, step)]; }
    index layers() const noexcept { return layers_; }
    /// The number of denoising steps.
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

/// The keys' positions under a change. Text tokens are those that flux::flux1_positions and
/// flux::positions_of_ids left untouched; with any other positions, the first `text_tokens`. Under
/// not_rotated every token is untouched: normalize_and_rotate then needs untouched_tokens::normalised, as for
/// FLUX's text.
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

/// One table row that moves already rotated image keys by (rows, columns): R(p + s) = R(s) R(p). The negative
/// shift moves them back.
/// Throws:   invalid_config on a spectrum of fewer than three axes or numbers that are not finite.
/// Accuracy: the rounding of one more rotation than rotating the keys at p + s.
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
