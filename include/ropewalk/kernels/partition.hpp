// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Splits the tokens and heads of a call into parts for the caller's threads.
#pragma once

#include <algorithm>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Part `part` of `parts`, for the caller's own threads: each thread makes the same call with its own number.
/// Requires: 0 <= part < parts. Any other part covers nothing here, and is a misfit in a call.
struct part_of {
    index parts = 1;  ///< how many threads
    index part = 0;   ///< the number of this one, from 0
};

/// The work of one part: tokens [first_token, first_token + tokens) of batches * tokens, and one of
/// head_parts slices of the heads of every tensor.
struct work_part {
    index first_token = 0;  ///< the first token of the part, counted over the whole call
    index tokens = 0;
    part_of heads;
};

/// The items of a part; the sizes of parts differ by at most one.
struct work_range {
    index first = 0;  ///< the first item
    index count = 0;  ///< the number of items
};
/// The share of one part. An empty one begins at 0, where every view has an item: at the end of the items it
/// would be the place of one that does not exist.
constexpr work_range partition(index items, part_of p) noexcept {
    if (p.part < 0 || p.part >= p.parts) return {};
    if (p.parts == 1) return {0, items};  // the usual call: avoids two divisions
    const index each = items / p.parts;
    const index rest = items % p.parts;
    const index count = each + (p.part < rest ? 1 : 0);
    return {count == 0 ? 0 : p.part * each + std::min(p.part, rest), count};
}

/// Tokens are split first. With fewer tokens than parts (decode) the heads of a token are split too. Every
/// (token, head) belongs to exactly one part, and no result depends on the split.
constexpr work_part partition_tokens(index tokens, part_of p) noexcept {
    if (p.part < 0 || p.part >= p.parts) return {};
    if (tokens >= p.parts || tokens == 0) {
        const work_range range = partition(tokens, p);
        return {range.first, range.count, {}};
    }
    // Parts of one token are consecutive; the first parts % tokens tokens get one more.
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

namespace ROPEWALK_NAMESPACE::detail {

/// The check of a part in cold calls; hot ones ask fit_part.
inline void require_part(const char* who, part_of part) {
    require(part.parts > 0 && part.part >= 0 && part.part < part.parts, who, "part must be one of parts",
            part.part);
}

}  // namespace ROPEWALK_NAMESPACE::detail
