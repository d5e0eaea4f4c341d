// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// AnchorAttention: packed documents share their first token (the anchor) at position 0; packing and mask.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/tiled.hpp>

/// AnchorAttention: documents packed into one sequence share its first token, the anchor. Every other token
/// attends to it, and its position is always 0.
/// Source: Wang et al. 2024 (arXiv 2411.13476); haonan3/AnchorContext, train.py.
namespace ROPEWALK_NAMESPACE::attention {

/// Token i attends to tokens document_start[i] .. i and, where the anchor is shared, to token 0. The mask
/// needs one number per token instead of a matrix. It works with `attend` and its gradient.
/// Source: haonan3/AnchorContext, generate_doc_mask_mod.
struct anchor_mask {
    std::vector<std::int32_t> document_start;  ///< [tokens], of the token's own document
    bool shared_anchor = false;                ///< token 0 is a document of its own that all tokens attend to

    index tokens() const noexcept { return static_cast<index>(document_start.size()); }
    /// Whether a query sees a key.
    bool seen(index query, index key) const noexcept { return at().seen(0, 0, query, key); }

    struct rules {
        const std::int32_t* start;
        bool anchored;

        /// Starts never decrease, so that of the first query is the least of a tile.
        seen_keys tile(const score_tile& t) const noexcept {
            const index first = t.first_query, last = first + t.queries - 1;
            const index begin = std::max<index>(t.first_key, start[first]);
            const index end = std::min(t.first_key + t.keys, last + 1);
            if (anchored && t.first_key == 0 && begin > 0)
                return {0, std::max<index>(begin < end ? end : 1, 1), begin >= end};
            return {begin, std::max<index>(end - begin, 0), end - 1 <= first && begin >= start[last]};
        }
        bool seen(index, index, index n, index j) const noexcept {
            return (j <= n) & ((j >= start[n]) | (anchored & (j == 0)));
        }
    };
    /// Throws: invalid_config when the counts of queries or keys differ from the mask's tokens, or on a
    ///         document_start that decreases or is after its token.
    /// Cost:   one pass over the tokens.
    rules over(const score_extent& whole) const {
        constexpr const char* who = "anchor_mask";
        detail::require_equal(who, "queries must be the mask's tokens", tokens(), whole.queries);
        detail::require_equal(who, "keys must be the mask's tokens", tokens(), whole.keys);
        index last = 0;
        for (index n = 0; n < tokens(); ++n) {
            const index start = document_start[static_cast<std::size_t>(n)];
            detail::require(start >= last && start <= n, who,
                            "document_start must not fall, nor pass its token", start);
            last = start;
        }
        return at();
    }
    /// The mask as a matrix [tokens, tokens], 1 = seen. For comparisons; `attend_anchored` does not need it.
    std::vector<std::uint8_t> dense() const { return written(shared_anchor); }
    /// The same matrix without the shared anchor.
    std::vector<std::uint8_t> dense_within_documents() const { return written(false); }
    /// The number of pairs that are seen, which is the cost of attention; a causal mask has tokens (tokens +
    /// 1) / 2.
    index seen_count() const noexcept {
        index count = 0;
        for (index i = 0; i < tokens(); ++i) {
            const index start = document_start[static_cast<std::size_t>(i)];
            count += i - start + 1 + (shared_anchor && start > 0 ? 1 : 0);
        }
        return count;
    }

  private:
    rules at() const noexcept { return {document_start.data(), shared_anchor}; }
    std::vector<std::uint8_t> written(bool anchored) const {
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(tokens() * tokens()), 0);
        const anchor_mask rule{document_start, anchored};
        for (index i = 0; i < tokens(); ++i)
            for (index j = 0; j <= i; ++j)
                mask[static_cast<std::size_t>(i * tokens() + j)] = rule.seen(i, j) ? 1 : 0;
        return mask;
    }
};

/// shared: one anchor at token 0, removed from the documents ("flex"). copied: every document begins with its
/// own copy, all at position 0 ("flash", for variable-length kernels). Both compute the same function.
enum class anchor_packing : std::uint8_t { shared, copied };

struct anchor_config {
    anchor_packing packing = anchor_packing::shared;  ///< shared or copied
    index tokens = 0;                                 ///< of the packed sequence
    std::int64_t anchor = 1;  ///< the anchor's token id: BOS, or EOS where there is none
};

/// A packed sequence; all members but the boundaries are [tokens].
struct anchor_pack {
    std::vector<std::int64_t> input_ids;          ///< the tokens
    std::vector<std::int64_t> labels;             ///< the inputs shifted by one token
    std::vector<index> boundaries;                ///< ends of the segments, the last at tokens + 1
    std::vector<std::int32_t> segments;           ///< shared: 0 anchor, documents from 1; copied: from 0
    std::vector<std::int32_t> segment_positions;  ///< counted inside each segment
    std::vector<std::int32_t> positions;          ///< for the rotation: index in the pack, anchors at 0
    anchor_mask mask;                             ///< which tokens attend to which
};

/// Packs documents into one sequence. Documents of at most 2 tokens are dropped, and the sequence is cut at
/// tokens + 1.
/// Shapes:   document_ends ascend within ids; a repeated end is an empty document, which is dropped.
/// Throws:   invalid_config when fewer than tokens + 1 tokens are left, on ends that decrease or exceed the
///           last token, or, for a shared anchor, on its id inside a document.
/// Source:   haonan3/AnchorContext, train.py, process_tokenized_data and the position loops of main.
inline anchor_pack make_anchor_pack(std::span<const std::int64_t> ids, std::span<const index> document_ends,
                                    const anchor_config& config) {
    constexpr const char* who = "make_anchor_pack";
    detail::require(config.tokens > 0, who, "tokens must be > 0", config.tokens);
    const bool shared = config.packing == anchor_packing::shared;
    const auto wanted = static_cast<std::size_t>(config.tokens + 1);
    std::vector<std::int64_t> packed;
    anchor_pack pack;
    if (shared) {
        packed.push_back(config.anchor);
        pack.boundaries.push_back(1);
    }
    index start = 0;
    for (index end : document_ends) {
        detail::require(end >= start && end <= static_cast<index>(ids.size()), who,
                        "document_ends must rise and stay within ids", end);
        auto document = ids.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(end - start));
        start = end;
        if (document.size() <= 2 || packed.size() >= wanted) continue;
        if (document.front() == config.anchor) document = document.subspan(1);
        if (!shared) packed.push_back(config.anchor);
        document = document.first(std::min(document.size(), wanted - packed.size()));
        for (auto id : document)  // only the official code for shared anchors forbids it
            detail::require(!shared || id != config.anchor, who,
                            "anchor must not be inside a document when it is shared", id);
        packed.insert(packed.end(), document.begin(), document.end());
        pack.boundaries.push_back(static_cast<index>(packed.size()));
    }
    detail::require(packed.size() == wanted, who, "documents must fill tokens + 1 tokens", packed.size());

    pack.input_ids.assign(packed.begin(), packed.end() - 1);
    pack.labels.assign(packed.begin() + 1, packed.end());
    pack.mask.shared_anchor = shared;
    std::size_t segment = 0;
    index begin = 0;
    for (index n = 0; n < config.tokens; ++n) {
        if (n == pack.boundaries[segment]) begin = pack.boundaries[segment++];
        pack.segments.push_back(static_cast<std::int32_t>(segment));
        pack.segment_positions.push_back(static_cast<std::int32_t>(n - begin));
        pack.positions.push_back(static_cast<std::int32_t>(!shared && n == begin ? 0 : n));
        pack.mask.document_start.push_back(static_cast<std::int32_t>(begin));
    }
    return pack;
}

/// Softmax attention under an anchor mask: `attend` with a workspace of its own.
/// Shapes:   q [batches, tokens, heads, channels], k [.., kv heads, channels], v [.., kv heads, value
///           channels], out [batches, tokens, heads, value channels], all rotated already; all batches share
///           the mask. scale: 1 / sqrt(channels) when not given.
/// Throws:   invalid_config as attend and anchor_mask::over.
/// Cost:     as attend: proportional to mask.seen_count() rounded up to tiles.
/// Accuracy: as attend. A key that is hidden from a query cannot change its result, even if it is NaN.
/// Source:   Wang et al. 2024, section 4.
template <class Q, class K, class V, class O>
void attend_anchored(const anchor_mask& mask, heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                     heads_view<O> out, std::optional<double> scale = {}) {
    const tiled_options<compute_t<Q>> options{.scale = scale};
    std::vector<std::byte> workspace(static_cast<std::size_t>(attend_workspace(q, k, v, options)));
    attend(mask, q, k, v, out, std::span<std::byte>(workspace), options);
}

}  // namespace ROPEWALK_NAMESPACE::attention
