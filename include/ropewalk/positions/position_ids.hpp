// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// position_ids: the positions of the tokens of a sequence on one or several axes, stored as compact segments.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// `tokens` tokens whose axes all advance together: first, first + step, ... (text).
struct text_run {
    index tokens = 0;
    double first = 0;  ///< position of the first token, on every axis
    double step = 1;   ///< from the position of one token to that of the next
};

/// A grid whose coordinates are sums over its levels, the form of every image and video scheme.
/// Shapes: `extents` [levels], outermost first: token t has indices t = (i0 * n1 + i1) * n2 + i2;
///         `coordinates[axis][level]` holds extents[level] numbers, or nothing if that level does not change
///         that axis; `origin` [axes] is added once (empty = zeros).
/// The position of a token on axis a is origin[a] + sum over levels l of coordinates[a][l][i_l]. A plain T x
/// H x W clip has one level for each axis; VideoRoPE's diagonal and VRoPE's rotated axes have two, a 2 x 2
/// merge order has four levels.
struct grid_block {
    std::vector<index> extents;  ///< of each level
    /// For each axis and level; empty if the level does not change the axis.
    std::vector<std::vector<std::vector<double>>> coordinates;
    std::vector<double> origin;  ///< of each axis; empty: zeros
};

/// Positions without structure: values [tokens, axes], row-major.
struct listed_run {
    std::vector<double> values;  ///< coordinates, [tokens, axes]
};

/// Tokens that no kernel touches (class and register tokens, padding).
struct untouched_run {
    index tokens = 0;
};

/// A segment of a sequence, in one of four forms. (With a std::variant of them rotate.hpp took a tenth longer
/// to compile.)
class position_segment {
  public:
    position_segment(text_run run) : form_(form::text), text_(run) {}
    position_segment(grid_block block) : form_(form::grid), grid_(std::move(block)) {}
    position_segment(listed_run run) : form_(form::listed), listed_(std::move(run)) {}
    position_segment(untouched_run run) : form_(form::untouched), untouched_(run) {}

    /// The segment in this form; nullptr if it has another form.
    const text_run* text() const noexcept { return form_ == form::text ? &text_ : nullptr; }
    text_run* text() noexcept { return form_ == form::text ? &text_ : nullptr; }
    /// As text().
    const grid_block* grid() const noexcept { return form_ == form::grid ? &grid_ : nullptr; }
    /// As text().
    grid_block* grid() noexcept { return form_ == form::grid ? &grid_ : nullptr; }
    /// As text().
    const listed_run* listed() const noexcept { return form_ == form::listed ? &listed_ : nullptr; }
    /// As text().
    listed_run* listed() noexcept { return form_ == form::listed ? &listed_ : nullptr; }
    /// As text().
    const untouched_run* untouched() const noexcept {
        return form_ == form::untouched ? &untouched_ : nullptr;
    }

  private:
    enum class form : std::uint8_t { text, grid, listed, untouched };
    form form_;
    text_run text_ = {};
    grid_block grid_ = {};
    listed_run listed_ = {};
    untouched_run untouched_ = {};
};

/// The positions of a sequence: [tokens, axes] numbers, stored as segments (a clip of 64 x 16 x 16 tokens is
/// 96 numbers instead of 16384 triples) and expanded by dense() on request.
/// Units:    positions: any finite doubles, fractions, negative numbers and radians included.
/// Throws:   invalid_config on a number that is not finite or on a block whose sizes disagree.
/// Cost:     at() O(log segments); dense() O(tokens * axes).
/// Accuracy: integers are exact up to 2^53.
class position_ids {
  public:
    explicit position_ids(index axes = 1) : axes_(axes) {
        detail::require(axes >= 1, "position_ids", "axes must be >= 1", axes);
    }

    /// One axis, from numbers of any arithmetic type: values [tokens].
    template <class N>
    static position_ids from(std::span<const N> values) {
        return from_tokens_axes(values, 1);
    }
    template <class N>
    static position_ids from(const std::vector<N>& values) {
        return from(std::span<const N>(values));
    }
    /// Several axes, the numbers of a token adjacent: values [tokens, axes], row-major.
    template <class N>
    static position_ids from_tokens_axes(std::span<const N> values, index axes) {
        position_ids ids(axes);
        ids.append(listed_run{std::vector<double>(values.begin(), values.end())});
        return ids;
    }
    template <class N>
    static position_ids from_tokens_axes(const std::vector<N>& values, index axes) {
        return from_tokens_axes(std::span<const N>(values), axes);
    }
    /// Several axes, the numbers of an axis adjacent: values [axes, tokens], row-major, the form in which
    /// engines and Hugging Face transformers store M-RoPE positions ([3, tokens]).
    template <class N>
    static position_ids from_axes_tokens(std::span<const N> values, index axes);
    template <class N>
    static position_ids from_axes_tokens(const std::vector<N>& values, index axes) {
        return from_axes_tokens(std::span<const N>(values), axes);
    }
    /// first, first + 1, ... on every axis.
    static position_ids text(index tokens, double first = 0, index axes = 1) {
        position_ids ids(axes);
        ids.append(text_run{tokens, first, 1});
        return ids;
    }

    /// Appends a segment. After a failure the sequence is unchanged.
    position_ids& append(position_segment segment);
    /// Appends all segments of another sequence with the same axes.
    position_ids& append(const position_ids& other);

    index tokens() const noexcept { return starts_.empty() ? 0 : starts_.back(); }
    index axes() const noexcept { return axes_; }
    /// The segments, in the order of their tokens.
    std::span<const position_segment> segments() const noexcept { return segments_; }
    /// First token of segment s; segment_start(segments().size()) is tokens().
    index segment_start(index s) const noexcept {
        return s == 0 ? 0 : starts_[static_cast<std::size_t>(s - 1)];
    }

    /// Position of a token on an axis; 0 for an untouched token.
    double at(index token, index axis = 0) const noexcept;
    /// Whether the token has a position.
    bool touched(index token) const noexcept { return segments_[segment_of(token)].untouched() == nullptr; }
    /// Whether every token has a position.
    bool all_touched() const noexcept {
        return std::none_of(segments_.begin(), segments_.end(),
                            [](const position_segment& s) { return s.untouched() != nullptr; });
    }
    /// The same positions as listed and untouched runs.
    position_ids dense() const;
    /// The positions [tokens, axes], row-major; those of untouched tokens are zero.
    std::vector<double> values() const;

  private:
    std::size_t segment_of(index token) const noexcept {
        ROPEWALK_EXPECT(token >= 0 && token < tokens());
        return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), token) -
                                        starts_.begin());
    }
    double in_segment(const position_segment& segment, index t, index axis) const noexcept;
    index checked_tokens(const position_segment& segment) const;

    index axes_;
    std::vector<position_segment> segments_;
    std::vector<index> starts_;  // one past the last token of each segment
};

template <class N>
position_ids position_ids::from_axes_tokens(std::span<const N> values, index axes) {
    position_ids ids(axes);
    const auto count = static_cast<index>(values.size());
    detail::require(count % axes == 0, "position_ids::from_axes_tokens",
                    "values must hold a multiple of axes numbers", count);
    std::vector<double> by_token(values.size());
    const index tokens = count / axes;
    for (index a = 0; a < axes; ++a)
        for (index t = 0; t < tokens; ++t)
            by_token[static_cast<std::size_t>(t * axes + a)] =
                static_cast<double>(values[static_cast<std::size_t>(a * tokens + t)]);
    ids.append(listed_run{std::move(by_token)});
    return ids;
}

inline index position_ids::checked_tokens(const position_segment& segment) const {
    constexpr const char* who = "position_ids::append";
    if (const auto* run = segment.text()) {
        detail::require(run->tokens >= 0, who, "text_run.tokens must be >= 0", run->tokens);
        detail::require(std::isfinite(run->first), who, "text_run.first must be finite", run->first);
        detail::require(std::isfinite(run->step), who, "text_run.step must be finite", run->step);
        return run->tokens;
    }
    if (const auto* run = segment.untouched()) {
        detail::require(run->tokens >= 0, who, "untouched_run.tokens must be >= 0", run->tokens);
        return run->tokens;
    }
    if (const auto* run = segment.listed()) {
        const auto count = static_cast<index>(run->values.size());
        detail::require(count % axes_ == 0, who, "listed_run.values must hold a multiple of axes numbers",
                        count);
        for (double p : run->values) detail::require(std::isfinite(p), who, "positions must be finite", p);
        return count / axes_;
    }
    const auto& grid = *segment.grid();
    index tokens = 1;
    for (index extent : grid.extents)
        tokens = detail::checked_product(who, "grid_block.extents must be >= 0", {tokens, extent});
    const auto axis_count = static_cast<index>(grid.coordinates.size());
    detail::require_equal(who, "grid_block.coordinates must have one entry an axis", axes_, axis_count);
    const auto origins = static_cast<index>(grid.origin.size());
    detail::require(origins == 0 || origins == axes_, who,
                    "grid_block.origin must be empty or one number an axis", origins);
    for (double p : grid.origin)
        detail::require(std::isfinite(p), who, "grid_block.origin must be finite", p);
    for (const auto& levels : grid.coordinates) {
        detail::require_equal(who, "grid_block.coordinates[axis] must have one entry a level",
                              grid.extents.size(), levels.size());
        for (std::size_t l = 0; l < levels.size(); ++l) {
            detail::require(levels[l].empty() || static_cast<index>(levels[l].size()) == grid.extents[l], who,
                            "grid_block.coordinates[axis][level] must be empty or extents[level] long",
                            levels[l].size());
            for (double p : levels[l]) detail::require(std::isfinite(p), who, "positions must be finite", p);
        }
    }
    return tokens;
}

inline position_ids& position_ids::append(position_segment segment) {
    const index before = tokens();
    const index count = checked_tokens(segment);
    detail::require(count <= std::numeric_limits<index>::max() - before, "position_ids::append",
                    "tokens must fit in 63 bits", count);
    detail::make_room(starts_, 1);
    segments_.push_back(std::move(segment));
    starts_.push_back(before + count);
    return *this;
}

inline position_ids& position_ids::append(const position_ids& other) {
    detail::require_equal("position_ids::append", "axes must be equal", axes_, other.axes_);
    detail::require(other.tokens() <= std::numeric_limits<index>::max() - tokens(), "position_ids::append",
                    "tokens must fit in 63 bits", other.tokens());
    std::vector<position_segment> copy = other.segments_;  // other may be *this
    detail::make_room(segments_, copy.size());
    detail::make_room(starts_, copy.size());
    // From here on nothing can fail: these segments were checked when they were added to the other sequence.
    const std::vector<index>& starts = other.starts_;
    const index before = tokens();
    for (std::size_t s = 0; s < copy.size(); ++s) {
        segments_.push_back(std::move(copy[s]));
        starts_.push_back(before + starts[s]);
    }
    return *this;
}

inline double position_ids::in_segment(const position_segment& segment, index t, index axis) const noexcept {
    if (const auto* run = segment.text()) return run->first + run->step * static_cast<double>(t);
    if (const auto* run = segment.listed()) return run->values[static_cast<std::size_t>(t * axes_ + axis)];
    if (const auto* grid = segment.grid()) {
        const auto a = static_cast<std::size_t>(axis);
        double position = 0;
        for (std::size_t l = grid->extents.size(); l-- > 0;) {
            const auto& along = grid->coordinates[a][l];
            if (!along.empty()) position += along[static_cast<std::size_t>(t % grid->extents[l])];
            t /= grid->extents[l];
        }
        return position + (grid->origin.empty() ? 0.0 : grid->origin[a]);
    }
    return 0.0;
}

inline double position_ids::at(index token, index axis) const noexcept {
    ROPEWALK_EXPECT(axis >= 0 && axis < axes_);
    const std::size_t s = segment_of(token);
    return in_segment(segments_[s], token - segment_start(static_cast<index>(s)), axis);
}

inline std::vector<double> position_ids::values() const {
    std::vector<double> all;
    all.reserve(static_cast<std::size_t>(
        detail::checked_product("position_ids::values", "tokens x axes must be >= 0", {tokens(), axes_})));
    for (std::size_t s = 0; s < segments_.size(); ++s) {
        const index count = starts_[s] - segment_start(static_cast<index>(s));
        for (index t = 0; t < count; ++t)
            for (index a = 0; a < axes_; ++a) all.push_back(in_segment(segments_[s], t, a));
    }
    return all;
}

inline position_ids position_ids::dense() const {
    position_ids out(axes_);
    for (std::size_t s = 0; s < segments_.size(); ++s) {
        const index count = starts_[s] - segment_start(static_cast<index>(s));
        if (segments_[s].untouched() != nullptr) {
            out.append(segments_[s]);
            continue;
        }
        listed_run run;
        run.values.reserve(static_cast<std::size_t>(count * axes_));
        for (index t = 0; t < count; ++t)
            for (index a = 0; a < axes_; ++a) run.values.push_back(in_segment(segments_[s], t, a));
        out.append(std::move(run));
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
