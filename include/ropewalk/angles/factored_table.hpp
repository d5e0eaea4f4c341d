// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Cos and sin rows of grids as products of a few rows per axis, instead of one row per token.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// A level of a block: `extent` rows of cos and sin, the first at values + offset. If the level changes no
/// pair it has no rows (offset -1). Pairs outside [first_pair, end_pair) have the factor 1 in all of its
/// rows.
struct factored_level {
    index offset = -1;     ///< index of its first row among the values
    index extent = 0;      ///< number of rows
    index first_pair = 0;  ///< a multiple of 16, as is end_pair
    index end_pair = 0;    ///< one past the last pair
};

/// Consecutive tokens whose rows are products of one row of each level. The level indices of token t of the
/// block are the digits of t as a mixed-radix number, outermost level first. No levels: the tokens are
/// untouched.
struct factored_block {
    index first_token = 0;  ///< first token of the block, in the batch
    index tokens = 0;
    index first_level = 0;  ///< its outermost level, among the levels of all blocks
    index level_count = 0;  ///< number of its levels
};

/// The rows of the tokens of one call as products of a few rows, over arrays that the view does not own.
/// Shapes:   a row is [heads or 1, 2, pair_stride]: cos, then sin. The row of a token is the complex product
///           of one row of each level of its block.
/// Requires: as rows_view; factored_table creates such views.
template <class C>
struct factored_rows_view : token_rows<factored_rows_view<C>> {
    using element = C;  ///< type of cos and sin
    static constexpr index max_pairs =
        512;  ///< capacity of the kernels' buffer for the product of the outer levels

    const C* values = nullptr;               ///< cos and sin of all levels, multiplied by the magnitude
    const factored_level* levels = nullptr;  ///< the levels of all blocks
    const factored_block* blocks = nullptr;  ///< the blocks, in the order of their tokens
    index block_count = 0;                   ///< number of blocks
    index heads = 1;
    index pairs = 0;
    index pair_stride = 0;  ///< pairs rounded up to whole registers
    index table_heads = 1;  ///< heads of a stored row
    index first_head = 0;   ///< the stored head that head 0 of the call reads
    index head_step = 1;    ///< stored heads from one head of the call to the next
    double magnitude = 1;

    /// Cos of a row of a level; its sin follows.
    constexpr const C* row_of(const factored_level& level, index row, index head) const noexcept {
        return values + level.offset + (row * table_heads + first_head + head * head_step) * 2 * pair_stride;
    }
    /// Rows of `count` heads: first, first + step, .... Rows that all heads share do not change.
    constexpr factored_rows_view head_slice(index first, index count, index step = 1) const noexcept {
        if (heads == 1) return *this;
        factored_rows_view v = *this;
        if (first < 0 || count < 0 || step < 1 || first > heads ||
            (count > 0 && (first == heads || count - 1 > (heads - 1 - first) / step))) {
            v.tokens = -1;
            return v;
        }
        v.first_head += first * head_step;
        v.head_step *= step;
        v.heads = count;
        return v;
    }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Pairs that the row buffer of the kernels holds.
inline constexpr index max_factored_pairs = factored_rows_view<float>::max_pairs;
/// Up to this many text tokens have one row each; longer runs are stored as two levels.
inline constexpr index max_text_rows = 4096;
/// Inner levels with at most this many tokens in all are multiplied out: they have few rows, and it saves a
/// product.
inline constexpr index max_joined_rows = 32;
/// Rows are padded to whole registers of the widest instruction set, so that products have no tails.
inline constexpr index factored_padding = 16;

/// One level of a block: how much each of its indices adds to the position on each axis.
struct level_positions {
    index extent = 1;
    std::vector<std::vector<double>> along;  // [axes], empty if the level does not change the axis

    double at(std::size_t axis, index i) const noexcept {
        return along[axis].empty() ? 0.0 : along[axis][static_cast<std::size_t>(i)];
    }
};

struct block_positions {
    std::vector<double> origin;  // [axes]
    std::vector<level_positions> levels;
};

inline level_positions even_level(index extent, double step, std::size_t axes) {
    if (step == 0) return {extent, std::vector<std::vector<double>>(axes)};
    std::vector<double> along(static_cast<std::size_t>(extent));
    for (std::size_t i = 0; i < along.size(); ++i) along[i] = step * static_cast<double>(i);
    return {extent, std::vector<std::vector<double>>(axes, along)};
}

/// Two adjacent levels as one level of outer.extent * inner.extent indices.
inline level_positions joined(const level_positions& outer, const level_positions& inner) {
    level_positions both{outer.extent * inner.extent, std::vector<std::vector<double>>(outer.along.size())};
    for (std::size_t a = 0; a < both.along.size(); ++a)
        if (!outer.along[a].empty() || !inner.along[a].empty())
            for (index i = 0; i < outer.extent; ++i)
                for (index j = 0; j < inner.extent; ++j)
                    both.along[a].push_back(outer.at(a, i) + inner.at(a, j));
    return both;
}

inline block_positions factored(const text_run& run, std::size_t axes) {
    block_positions block{std::vector<double>(axes, run.first), {}};
    index inner = run.tokens;
    if (inner > max_text_rows) {
        for (inner = 1; inner * inner < run.tokens;) inner *= 2;
        block.levels.push_back(
            even_level((run.tokens + inner - 1) / inner, run.step * static_cast<double>(inner), axes));
    }
    block.levels.push_back(even_level(inner, run.step, axes));
    return block;
}

inline block_positions factored(const listed_run& run, std::size_t axes) {
    level_positions level{static_cast<index>(run.values.size() / axes),
                          std::vector<std::vector<double>>(axes)};
    for (std::size_t i = 0; i < run.values.size(); ++i) level.along[i % axes].push_back(run.values[i]);
    return {std::vector<double>(axes, 0.0), {std::move(level)}};
}

inline block_positions factored(const grid_block& grid, std::size_t axes) {
    block_positions block{grid.origin.empty() ? std::vector<double>(axes, 0.0) : grid.origin, {}};
    for (std::size_t l = 0; l < grid.extents.size(); ++l) {
        level_positions level{grid.extents[l], std::vector<std::vector<double>>(axes)};
        for (std::size_t a = 0; a < axes; ++a) level.along[a] = grid.coordinates[a][l];
        if (level.extent == 1) {
            for (std::size_t a = 0; a < axes; ++a) block.origin[a] += level.at(a, 0);
        } else {
            block.levels.push_back(std::move(level));
        }
    }
    if (block.levels.empty()) block.levels.push_back({1, std::vector<std::vector<double>>(axes)});
    while (block.levels.size() > 1) {
        const level_positions& inner = block.levels.back();
        const level_positions& outer = block.levels[block.levels.size() - 2];
        if (outer.extent * inner.extent > max_joined_rows) break;
        level_positions both = joined(outer, inner);
        block.levels.pop_back();
        block.levels.back() = std::move(both);
    }
    return block;
}

inline block_positions factored(const position_segment& segment, std::size_t axes) {
    if (const auto* run = segment.text()) return factored(*run, axes);
    if (const auto* run = segment.listed()) return factored(*run, axes);
    if (const auto* grid = segment.grid()) return factored(*grid, axes);
    return {};  // untouched
}

}  // namespace detail

/// Cos and sin of structured positions without one row per token. A clip of T x H x W tokens has T + H + W
/// rows; text and lists have one row per token (text longer than 4096 tokens about 2 sqrt(tokens)). The
/// kernels multiply the level rows of each token during the rotation. Any spectrum (shared by all heads or
/// not, selected or mixed), any mix of segments and any number of axes can be factored.
/// Shapes:   positions [tokens, axes], spectrum [heads or 1, axes, pairs].
/// Requires: <ropewalk/kernels/rows_from_factors.hpp> beside <ropewalk/kernels/rotate.hpp>, to rotate with it.
/// Throws:   invalid_config if the axes differ or pairs > 512.
/// Cost:     per row as rotation_table, and 2 * sizeof(T) bytes per pair, pairs rounded up to 16.
/// Accuracy: a pair that only one level of its block changes (axial grids, sections) has the same bits as in
///           rotation_table. With L levels (diagonals, mixed 2-D, long text) the error is larger by up to
///           magnitude * 2.4e-7 (L - 1) in float, 5e-16 (L - 1) in double. Within a block equal positions
///           have equal rows, however the call is split into chunks.
/// Threads:  rows() of one table may be used from several threads at once.
/// Source:   exp(i (a + b)) = exp(i a) exp(i b); CogVideoX, Wan and Qwen2-VL repeat per-axis tables.
template <class T = float>
class factored_table {
  public:
    factored_table() = default;
    factored_table(const spectrum& s, const position_ids& positions)
        : heads_(s.heads()), pairs_(s.pairs()), magnitude_(s.magnitude()), tokens_(positions.tokens()) {
        constexpr const char* who = "factored_table";
        detail::require_equal(who, "positions must have the spectrum's axes", s.axes(), positions.axes());
        detail::require(pairs_ <= detail::max_factored_pairs, who, "pairs must be <= 512", pairs_);
        pair_stride_ =
            (pairs_ + detail::factored_padding - 1) / detail::factored_padding * detail::factored_padding;
        const auto axes = static_cast<std::size_t>(s.axes());
        std::vector<detail::block_positions> blocks;
        for (const auto& segment : positions.segments()) {
            blocks.push_back(detail::factored(segment, axes));
            describe(s, blocks.back(), positions.segment_start(static_cast<index>(blocks.size()) - 1),
                     positions.segment_start(static_cast<index>(blocks.size())));
        }
        values_.resize(static_cast<std::size_t>(
            detail::checked_product(who, "rows must be >= 0", {row_count(), heads_, 2, pair_stride_})));
        for (std::size_t b = 0; b < blocks.size(); ++b) fill(s, blocks[b], blocks_[b]);
    }

    index tokens() const noexcept { return tokens_; }
    index heads() const noexcept { return heads_; }
    index pairs() const noexcept { return pairs_; }
    double magnitude() const noexcept { return magnitude_; }
    /// Number of rows of all levels of all blocks.
    index row_count() const noexcept {
        index rows = 0;
        for (const auto& level : levels_) rows += level.offset < 0 ? 0 : level.extent;
        return rows;
    }
    /// Bytes of cos, sin and the description of the blocks.
    std::size_t byte_count() const noexcept {
        return values_.size() * sizeof(T) + levels_.size() * sizeof(factored_level) +
               blocks_.size() * sizeof(factored_block);
    }

    /// Row = token ordinal of the positions; untouched tokens stay untouched.
    factored_rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND {
        factored_rows_view<T> v;
        v.values = values_.data();
        v.levels = levels_.data();
        v.blocks = blocks_.data();
        v.block_count = static_cast<index>(blocks_.size());
        v.heads = v.table_heads = heads_;
        v.pairs = pairs_;
        v.pair_stride = pair_stride_;
        v.tokens = tokens_;
        v.magnitude = magnitude_;
        return v;
    }
    factored_rows_view<T> rows() const&& = delete;  // the table is a temporary: name it

  private:
    void describe(const spectrum& s, detail::block_positions& block, index first_token, index end_token);
    void fill(const spectrum& s, const detail::block_positions& positions, const factored_block& block);

    index heads_ = 1;
    index pairs_ = 0;
    index pair_stride_ = 0;
    double magnitude_ = 1;
    index tokens_ = 0;
    detail::aligned_vector<T> values_;
    std::vector<factored_level> levels_;
    std::vector<factored_block> blocks_;
};

namespace detail {

inline bool moves(const level_positions& level, const spectrum& s, index head, index pair) noexcept {
    for (index a = 0; a < s.axes(); ++a)
        if (!level.along[static_cast<std::size_t>(a)].empty() && s.turns(head, a, pair) != 0) return true;
    return false;
}

/// For each pair the outermost level that changes it, or the first level with rows if none does. That level
/// also carries the origin of the block and the magnitude; in all other levels the factor of the pair starts
/// from angle 0.
inline std::vector<std::size_t> carriers(const block_positions& block, const spectrum& s,
                                         std::size_t first_with_rows) {
    std::vector<std::size_t> carrier(static_cast<std::size_t>(s.heads() * s.pairs()), first_with_rows);
    for (index h = 0; h < s.heads(); ++h)
        for (index i = 0; i < s.pairs(); ++i)
            for (std::size_t l = block.levels.size(); l-- > 0;)
                if (moves(block.levels[l], s, h, i)) carrier[static_cast<std::size_t>(h * s.pairs() + i)] = l;
    return carrier;
}

}  // namespace detail

/// Determines which levels have rows, where the rows are stored and which pairs they change.
template <class T>
void factored_table<T>::describe(const spectrum& s, detail::block_positions& block, index first_token,
                                 index end_token) {
    const auto has_rows = [&](const detail::level_positions& level) {
        for (index h = 0; h < heads_; ++h)
            for (index i = 0; i < pairs_; ++i)
                if (detail::moves(level, s, h, i)) return true;
        return false;
    };
    // Tokens that all have the same position share one row, in a level of its own.
    if (!block.levels.empty() && std::none_of(block.levels.begin(), block.levels.end(), has_rows))
        block.levels.insert(block.levels.begin(),
                            {1, std::vector<std::vector<double>>(static_cast<std::size_t>(s.axes()), {0.0})});
    const auto first_level = static_cast<index>(levels_.size());
    index offset = row_count() * heads_ * 2 * pair_stride_;
    std::size_t first_with_rows = block.levels.size();
    for (std::size_t l = 0; l < block.levels.size(); ++l) {
        const bool constant = block.levels[l].extent == 1 && !block.levels[l].along[0].empty();
        const bool rows = constant || has_rows(block.levels[l]);
        levels_.push_back({rows ? offset : -1, block.levels[l].extent});
        if (rows) offset += block.levels[l].extent * heads_ * 2 * pair_stride_;
        if (rows) first_with_rows = std::min(first_with_rows, l);
    }
    const auto carrier = detail::carriers(block, s, first_with_rows);
    for (std::size_t l = 0; l < block.levels.size(); ++l) {
        factored_level& level = levels_[static_cast<std::size_t>(first_level) + l];
        index first = pairs_, end = 0;
        for (index h = 0; h < heads_; ++h)
            for (index i = 0; i < pairs_; ++i)
                if (carrier[static_cast<std::size_t>(h * pairs_ + i)] == l ||
                    detail::moves(block.levels[l], s, h, i)) {
                    first = std::min(first, i);
                    end = std::max(end, i + 1);
                }
        if (end == 0) continue;
        level.first_pair = first / detail::factored_padding * detail::factored_padding;
        level.end_pair = std::min(pair_stride_, (end + detail::factored_padding - 1) /
                                                    detail::factored_padding * detail::factored_padding);
    }
    blocks_.push_back({first_token, end_token - first_token, first_level,
                       static_cast<index>(levels_.size()) - first_level});
}

template <class T>
void factored_table<T>::fill(const spectrum& s, const detail::block_positions& positions,
                             const factored_block& block) {
    const auto pairs = static_cast<std::size_t>(pairs_);
    const auto axes = static_cast<std::size_t>(s.axes());
    const std::size_t levels = positions.levels.size();
    const factored_level* const described = levels_.data() + block.first_level;
    std::size_t first_with_rows = 0;
    while (first_with_rows < levels && described[first_with_rows].offset < 0) ++first_with_rows;
    const auto carrier = detail::carriers(positions, s, first_with_rows);
    std::vector<double> from_zero(axes), from_origin(axes), reduced(pairs);
    std::vector<T> cos(pairs), sin(pairs);
    for (std::size_t l = 0; l < levels; ++l) {
        if (described[l].offset < 0) continue;
        const auto& level = positions.levels[l];
        for (index r = 0; r < level.extent; ++r) {
            for (std::size_t a = 0; a < axes; ++a) {
                from_zero[a] = level.at(a, r);
                from_origin[a] = positions.origin[a] + from_zero[a];
            }
            for (index h = 0; h < heads_; ++h) {
                const std::size_t* owner = carrier.data() + h * pairs_;
                for (index i = 0; i < pairs_; ++i)
                    reduced[static_cast<std::size_t>(i)] =
                        detail::reduced_at(s, owner[i] == l ? from_origin.data() : from_zero.data(), h, i);
                T* const c = values_.data() + described[l].offset + (r * heads_ + h) * 2 * pair_stride_;
                T* const sn = c + pair_stride_;
                fill_cos_sin_reduced(reduced.data(), magnitude_, pairs_, c, sn);
                if (magnitude_ == 1.0 || levels == 1) continue;
                fill_cos_sin_reduced(reduced.data(), 1.0, pairs_, cos.data(), sin.data());
                for (index i = 0; i < pairs_; ++i)
                    if (owner[i] != l) {
                        c[i] = cos[static_cast<std::size_t>(i)];
                        sn[i] = sin[static_cast<std::size_t>(i)];
                    }
            }
        }
    }
}

/// positions x spectrum, factored.
/// Throws:   as factored_table.
/// Source:   as factored_table.
///
///     const auto table = make_factored_table(omega, clip.positions);
///     rotate(half_split{}, q, k, table);
template <class T = float>
factored_table<T> make_factored_table(const spectrum& s, const position_ids& positions) {
    return factored_table<T>(s, positions);
}

}  // namespace ROPEWALK_NAMESPACE
