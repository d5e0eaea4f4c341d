// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Part `part` of `parts`, for a caller's own threads: each thread makes the same call with its number.
/// Requires: 0 <= part < parts. Any other part covers nothing here, and is a misfit in a call.
struct part_of {
    index parts = 1;  ///< how many threads
    index part = 0;   ///< the number of this one, from 0
};

/// What one part covers: tokens [first_token, first_token + tokens) of batches * tokens, and one of
/// head_parts slices of the heads of every tensor.
struct work_part {
    index first_token = 0;  ///< the token of the whole that the part begins with
    index tokens = 0;
    part_of heads;
};

/// The items of a part, sizes differing by at most one.
struct work_range {
    index first = 0;  ///< the first of them
    index count = 0;  ///< how many
};
/// The share of one part.
constexpr work_range partition(index items, part_of p) noexcept {
    if (p.part < 0 || p.part >= p.parts) return {};
    if (p.parts == 1) return {0, items};  // the usual call, spared two divisions
    const index each = items / p.parts;
    const index rest = items % p.parts;
    return {p.part * each + std::min(p.part, rest), each + (p.part < rest ? 1 : 0)};
}

/// Tokens are split first; with fewer tokens than parts (decode) the heads of a token are split too.
/// Every (token, head) belongs to exactly one part, and no result depends on the split.
constexpr work_part partition_tokens(index tokens, part_of p) noexcept {
    if (p.part < 0 || p.part >= p.parts) return {};
    if (tokens >= p.parts || tokens == 0) {
        const work_range range = partition(tokens, p);
        return {range.first, range.count, {}};
    }
    // Parts of one token are neighbours; the first parts % tokens tokens get one more.
    index token = 0;
    index first_part = 0;
    for (; token < tokens; ++token) {
        const index share = partition(p.parts, {tokens, token}).count;
        if (p.part < first_part + share) return {token, 1, {share, p.part - first_part}};
        first_part += share;
    }
    return {};
}

}  // namespace ROPEWALK_VIEW_NAMESPACE
