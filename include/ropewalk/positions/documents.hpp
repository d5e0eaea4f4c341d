// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Positions of documents packed into one sequence, from their offsets (cu_seqlens).
#pragma once

#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// offsets [documents + 1]: 0, then the end of each document; the last is the number of tokens.
template <class I>
void require_offsets(const char* function, std::span<const I> offsets) {
    require(!offsets.empty(), function, "offsets must hold documents + 1 numbers", offsets.size());
    require(offsets.front() == 0, function, "offsets must start with 0", offsets.front());
    for (std::size_t d = 1; d < offsets.size(); ++d)
        require(offsets[d] >= offsets[d - 1], function, "offsets must not fall", offsets[d]);
}

}  // namespace detail

namespace positions {

/// Offsets [documents + 1] from lengths [documents].
/// Throws: invalid_config on a negative length, or lengths whose sum an index cannot hold.
/// Source: cu_seqlens of FlashAttention.
template <class I>
std::vector<index> offsets_of_lengths(std::span<const I> lengths) {
    std::vector<index> offsets{0};
    for (const I length : lengths) {
        detail::require(length >= 0, "offsets_of_lengths", "lengths must be >= 0", length);
        detail::require(std::cmp_less_equal(length, std::numeric_limits<index>::max() - offsets.back()),
                        "offsets_of_lengths", "lengths must sum to a number that index can hold", length);
        offsets.push_back(offsets.back() + static_cast<index>(length));
    }
    return offsets;
}

/// Documents packed into one sequence. Each starts again at 0, or at its entry in `first` if its earlier
/// tokens are already in a cache (ragged batches, chunked prefill).
/// Shapes:   offsets [documents + 1] in tokens; first [documents] or empty; result [offsets.back(), 1].
/// Throws:   invalid_config if offsets do not start with 0 or decrease, or if first has another length or a
///           negative number.
/// Cost:     one segment for each document.
/// Source:   cu_seqlens of FlashAttention; document packing, Krell et al. 2021.
template <class I>
position_ids documents(std::span<const I> offsets, std::type_identity_t<std::span<const I>> first = {}) {
    constexpr const char* who = "documents";
    detail::require_offsets(who, offsets);
    detail::require(first.empty() || first.size() + 1 == offsets.size(), who,
                    "first must be empty or hold one number a document", first.size());
    position_ids ids;
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
        const I start = first.empty() ? I{0} : first[d];
        detail::require(start >= 0, who, "first must be >= 0", start);
        ids.append(text_run{static_cast<index>(offsets[d + 1] - offsets[d]), static_cast<double>(start), 1});
    }
    return ids;
}

/// The same positions as rows of a position_table.
/// Throws: invalid_config as documents.
/// Source: as documents.
template <class I>
std::vector<std::int64_t> document_rows(std::span<const I> offsets,
                                        std::type_identity_t<std::span<const I>> first = {}) {
    std::vector<std::int64_t> rows;
    for (const double position : documents(offsets, first).values())
        rows.push_back(static_cast<std::int64_t>(position));
    return rows;
}

/// The index of the document of every token, from 0, which a document mask compares.
/// Throws:   invalid_config as documents.
/// Source:   as documents.
template <class I>
std::vector<std::int32_t> document_of_token(std::span<const I> offsets) {
    detail::require_offsets("document_of_token", offsets);
    std::vector<std::int32_t> document;
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
        document.insert(document.end(), static_cast<std::size_t>(offsets[d + 1] - offsets[d]),
                        static_cast<std::int32_t>(d));
    return document;
}

}  // namespace positions
}  // namespace ROPEWALK_NAMESPACE
