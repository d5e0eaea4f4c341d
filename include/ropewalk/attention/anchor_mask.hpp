// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/core/heads_view.hpp>

/// AnchorAttention: documents packed into one sequence share its first token, which every other token sees
/// and which always stands at position 0.
/// Source: Wang et al. 2024 (arXiv 2411.13476); haonan3/AnchorContext, train.py.
namespace ROPEWALK_NAMESPACE::attention {

/// Token i sees document_start[i] .. i and, where the anchor is shared, token 0: two numbers a token instead
/// of a matrix.
/// Source: haonan3/AnchorContext, generate_doc_mask_mod.
struct anchor_mask {
    std::vector<std::int32_t> document_start;  ///< [tokens], of the token's own document
    bool shared_anchor = false;                ///< token 0 is a document of its own that all see

    index tokens() const noexcept { return static_cast<index>(document_start.size()); }
    /// Whether a query sees a key.
    bool seen(index query, index key) const noexcept {
        return key <= query &&
               (key >= document_start[static_cast<std::size_t>(query)] || (shared_anchor && key == 0));
    }
    /// Written out [tokens, tokens], 1 = seen. For comparisons; `attend_anchored` needs no matrix.
    std::vector<std::uint8_t> dense() const { return written(shared_anchor); }
    /// The competing mask without the shared anchor.
    std::vector<std::uint8_t> dense_within_documents() const { return written(false); }
    /// How many entries are seen: the cost of attention, against tokens (tokens + 1) / 2.
    index seen_count() const noexcept {
        index count = 0;
        for (index i = 0; i < tokens(); ++i) {
            const index start = document_start[static_cast<std::size_t>(i)];
            count += i - start + 1 + (shared_anchor && start > 0 ? 1 : 0);
        }
        return count;
    }

  private:
    std::vector<std::uint8_t> written(bool anchored) const {
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(tokens() * tokens()), 0);
        const anchor_mask rule{document_start, anchored};
        for (index i = 0; i < tokens(); ++i)
            for (index j = 0; j <= i; ++j)
                mask[static_cast<std::size_t>(i * tokens() + j)] = rule.seen(i, j) ? 1 : 0;
        return mask;
    }
};

/// shared: one anchor at token 0, stripped from the documents ("flex"). copied: every document begins with
/// its own copy, all at position 0 ("flash", for variable-length kernels). Both compute the same function.
enum class anchor_packing : std::uint8_t { shared, copied };

struct anchor_config {
    anchor_packing packing = anchor_packing::shared;  ///< shared or copied
    index tokens = 0;                                 ///< of the packed sequence
    std::int64_t anchor = 1;  ///< the anchor's token id: BOS, or EOS where there is none
};

/// A packed sequence, [tokens] each but for the boundaries.
struct anchor_pack {
    std::vector<std::int64_t> input_ids;          ///< the tokens
    std::vector<std::int64_t> labels;             ///< the inputs one token on
    std::vector<index> boundaries;                ///< ends of the segments, the last at tokens + 1
    std::vector<std::int32_t> segments;           ///< shared: 0 anchor, documents from 1; copied: from 0
    std::vector<std::int32_t> segment_positions;  ///< counted inside each segment
    std::vector<std::int32_t> positions;          ///< for the rotation: place in the pack, anchors at 0
    anchor_mask mask;                             ///< who sees whom
};

/// Packs documents: those of at most 2 tokens are dropped, the rest is cut at tokens + 1.
/// Shapes:   document_ends rise within ids; an end that repeats is an empty document, and dropped.
/// Throws:   invalid_config when fewer than tokens + 1 tokens are left, on ends that fall or pass the last
///           token, or, for a shared anchor, on its id inside a document.
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
        for (auto id : document)  // only the shared anchor's code forbids it
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

/// Softmax attention over an anchor mask, document by document.
/// Shapes:   q [batches, tokens, heads, channels], k [.., kv heads, channels], v [.., kv heads, value
///           channels], out [batches, tokens, heads, value channels], rotated already; the mask is every
///           batch's. scale: 1 / sqrt(channels) when not given. T: arithmetic, double for f64 queries.
/// Throws:   invalid_config on sizes that disagree, or a document_start that falls, or is past its token.
/// Cost:     heads * mask.seen_count() * (channels + value channels) multiply-adds and what a tile of 64
///           queries sees beyond its own; scratch of 64 * longest document.
/// Accuracy: f64 within 1e-12, f32 within 1e-5 of exact attention under the dense mask, for order-1 inputs.
///           A key that is hidden from a query cannot change its result, NaN included.
/// Source:   Wang et al. 2024, section 4.
template <class Q, class K, class V, class O>
void attend_anchored(const anchor_mask& mask, heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                     heads_view<O> out, std::optional<double> scale = {}) {
    using T = compute_t<Q>;
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    constexpr const char* who = "attend_anchored";
    const index tokens = mask.tokens();
    for (index n : {q.tokens(), k.tokens(), v.tokens(), out.tokens()})
        detail::require(n == tokens, who, "all views must have the mask's tokens", n);
    for (index n : {k.batches(), v.batches(), out.batches()})
        detail::require(n == q.batches(), who, "all views must have q's batches", n);
    detail::require(k.heads() > 0 && q.heads() % k.heads() == 0, who,
                    "k.heads must be > 0 and divide q.heads", k.heads());
    detail::require(v.heads() == k.heads(), who, "v.heads must equal k.heads", v.heads());
    detail::require(out.heads() == q.heads(), who, "out.heads must equal q.heads", out.heads());
    detail::require(k.channels() == q.channels(), who, "k.channels must equal q.channels", k.channels());
    detail::require(out.channels() == v.channels(), who, "out.channels must equal v.channels",
                    out.channels());
    const double s = scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(q.channels(), 1))));
    detail::require(std::isfinite(s), who, "scale must be finite", s);
    for (index n = 0, last = 0; n < tokens; ++n) {
        const index start = mask.document_start[static_cast<std::size_t>(n)];
        detail::require(start >= last && start <= n, who, "document_start must not fall, nor pass its token",
                        start);
        last = start;
    }

    const auto row_of = [](const auto* p, index channels) {
        using E = std::remove_cvref_t<decltype(*p)>;
        Eigen::Matrix<T, 1, Eigen::Dynamic> row(channels);
        for (index c = 0; c < channels; ++c)
            row[c] = static_cast<T>(static_cast<compute_t<E>>(reinterpret_cast<const stored_t<E>*>(p)[c]));
        return row;
    };
    for (index b = 0; b < q.batches(); ++b)
        for (index kv = 0; kv < k.heads(); ++kv)
            for (index first = 0, end = 0; first < tokens; first = end) {
                const auto start_of = [&](index n) {
                    return static_cast<index>(mask.document_start[static_cast<std::size_t>(n)]);
                };
                const index start = start_of(first);
                end = first + 1;
                while (end < tokens && start_of(end) == start) ++end;
                const index anchors = mask.shared_anchor && start > 0 ? 1 : 0, keys = anchors + end - start;
                matrix key_rows(keys, k.channels()), value_rows(keys, v.channels());
                for (index j = 0; j < keys; ++j) {
                    const index n = j < anchors ? 0 : start + j - anchors;
                    key_rows.row(j) = row_of(k.at(b, n, kv), k.channels());
                    value_rows.row(j) = row_of(v.at(b, n, kv), v.channels());
                }
                // Hidden values of a tile are multiplied by 0, which is no 0 times NaN: then query by query.
                const index tile = value_rows.allFinite() ? 64 : 1;
                for (index h = kv * (q.heads() / k.heads()); h < (kv + 1) * (q.heads() / k.heads()); ++h)
                    for (index n = first; n < end; n += tile) {
                        const index rows = std::min(tile, end - n), width = anchors + n + rows - start;
                        matrix queries(rows, q.channels());
                        for (index r = 0; r < rows; ++r)
                            queries.row(r) = static_cast<T>(s) * row_of(q.at(b, n + r, h), q.channels());
                        matrix scores = queries * key_rows.topRows(width).transpose();
                        for (index r = 0; r < rows; ++r) {
                            auto row = scores.row(r);
                            const index seen = anchors + n + r + 1 - start;
                            const T peak = row.head(seen).maxCoeff();
                            row.head(seen) = (row.head(seen).array() - peak).exp();
                            row.head(seen) /= row.head(seen).sum();
                            row.tail(width - seen).setZero();
                        }
                        const matrix mixed = scores * value_rows.topRows(width);
                        for (index r = 0; r < rows; ++r) {
                            auto* to = reinterpret_cast<stored_t<O>*>(out.at(b, n + r, h));
                            for (index c = 0; c < v.channels(); ++c)
                                to[c] = stored_t<O>(static_cast<compute_t<O>>(mixed(r, c)));
                        }
                    }
            }
}

}  // namespace ROPEWALK_NAMESPACE::attention
