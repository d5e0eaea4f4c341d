// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Slices of position sequences (prefill chunks) and padding by an attention mask.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Tokens [first, first + count) of a grid as smaller grids. A level cut down to one index stays a level of
/// extent 1, so that positions are summed in the same order and keep their bits.
inline void append_part(position_ids& out, const grid_block& grid, std::size_t level, index first,
                        index count) {
    if (count == 0) return;
    while (level < grid.extents.size() && grid.extents[level] == 1) ++level;
    index inner = 1;
    for (std::size_t l = level + 1; l < grid.extents.size(); ++l) inner *= grid.extents[l];
    // Indices [from, from + extent) of `level`, of which the tokens [skip, skip + taken) are wanted.
    const auto keep = [&](index from, index extent, index skip, index taken) {
        if (taken == 0) return;
        grid_block part = grid;
        if (level < grid.extents.size()) {
            part.extents[level] = extent;
            for (auto& levels : part.coordinates) {
                auto& along = levels[level];
                if (!along.empty())
                    along = std::vector<double>(along.begin() + from, along.begin() + from + extent);
            }
        }
        if (taken == extent * inner) {
            out.append(std::move(part));
        } else {
            append_part(out, part, level + 1, skip, taken);
        }
    };
    const index begin = first / inner;  // the first index, whether its tokens are complete or not
    const index head = first % inner;
    if (head != 0) {
        const index taken = std::min(count, inner - head);
        keep(begin, 1, head, taken);
        count -= taken;
    }
    const index whole = begin + (head != 0 ? 1 : 0);
    keep(whole, count / inner, 0, count / inner * inner);
    keep(whole + count / inner, 1, 0, count % inner);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// Tokens [first, first + count) of a sequence, still as segments: a prefill chunk.
/// Throws:   invalid_config on a range that is not inside the sequence.
/// Cost:     O(segments); a grid cut in the middle becomes at most 2 * levels grids.
/// Accuracy: consecutive slices give the positions of the whole: the same bits in grids and lists, and in
///           text where f64 holds the positions exactly (integers, 0.75, ...); otherwise within one ulp.
/// Source:   chunked prefill, vllm-project/vllm issues 10388 and 10403.
inline position_ids slice_tokens(const position_ids& ids, index first, index count) {
    constexpr const char* who = "slice_tokens";
    detail::require(first >= 0 && first <= ids.tokens(), who, "first must be a token of the sequence", first);
    detail::require(count >= 0 && count <= ids.tokens() - first, who,
                    "count must be tokens of the sequence from first on", count);
    position_ids out(ids.axes());
    for (std::size_t s = 0; s < ids.segments().size(); ++s) {
        const index start = ids.segment_start(static_cast<index>(s));
        const index from = std::max(first, start) - start;
        const index to = std::min(first + count, ids.segment_start(static_cast<index>(s) + 1)) - start;
        if (from >= to) continue;
        const auto& segment = ids.segments()[s];
        if (const auto* run = segment.text()) {
            out.append(text_run{to - from, run->first + run->step * static_cast<double>(from), run->step});
        } else if (const auto* list = segment.listed()) {
            out.append(listed_run{std::vector<double>(list->values.begin() + from * ids.axes(),
                                                      list->values.begin() + to * ids.axes())});
        } else if (segment.untouched() != nullptr) {
            out.append(untouched_run{to - from});
        } else {
            detail::append_part(out, *segment.grid(), 0, from, to - from);
        }
    }
    return out;
}

/// `count` padding tokens, all at one position (the references rotate padding, at 1 or 0; attention masks it
/// anyway), or untouched by kernels if no position is given.
/// Source: Hugging Face fills position_ids with 1 (4.x) or 0 (5.x) before it writes the real tokens.
inline position_segment padding_run(index count, std::optional<double> position) {
    if (position) return text_run{count, *position, 0};
    return untouched_run{count};
}

/// Places the tokens of a sequence where `mask` is not 0, and padding where it is 0.
/// Shapes:   mask [padded tokens] with as many non-zero entries as the sequence has tokens.
/// Throws:   invalid_config if the counts differ.
/// Source:   attention_mask of Hugging Face: left, right or any other padding.
template <class M>
position_ids spread_over_mask(const position_ids& ids, std::span<const M> mask,
                              std::optional<double> position = {}) {
    const auto kept = static_cast<index>(mask.size()) - std::count(mask.begin(), mask.end(), M{0});
    detail::require_equal("spread_over_mask",
                          "mask must have one entry that is not 0 a token of the sequence", ids.tokens(),
                          kept);
    position_ids out(ids.axes());
    index token = 0;
    for (auto at = mask.begin(); at != mask.end();) {
        const bool real = *at != M{0};
        const auto end = std::find_if(at, mask.end(), [real](M m) { return (m != M{0}) != real; });
        const index count = end - at;
        if (real) {
            out.append(slice_tokens(ids, token, count));
            token += count;
        } else {
            out.append(padding_run(count, position));
        }
        at = end;
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::positions
