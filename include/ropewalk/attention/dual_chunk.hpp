// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Dual chunk attention (Qwen2.5-1M): positions, reference scores, and the estimate of which keys matter.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/fit_view.hpp>

namespace ROPEWALK_NAMESPACE {

/// The value at which positions of dual chunk attention are clamped. released_code: chunk_size (ChunkLlama
/// and vLLM).
/// paper: chunk_size - 1.
enum class chunk_clamp : std::uint8_t { released_code, paper };

/// Which keys a query's position is for: those of its own chunk, of the chunk before it, or of all older
/// chunks. The two critical positions are not clamped and only serve to estimate which keys matter.
enum class chunk_row : std::uint8_t { same, previous, older, previous_critical, older_critical };

struct dual_chunk_config {
    index chunk_size = 8192;      ///< in tokens; no distance exceeds it
    index local_size = 1024;      ///< distances stay exact up to this far across a chunk's border
    double original_context = 0;  ///< length in tokens from which logits are scaled up; 0: never
    chunk_clamp clamp = chunk_clamp::released_code;  ///< the value at which positions are clamped
};

/// Dual chunk attention (Qwen2.5-1M, Qwen3's million-token configs): keys have their position modulo L =
/// chunk_size - local_size, and queries have one of three positions, so that no distance exceeds chunk_size.
/// There is one cache, whose keys are never rotated again.
/// Units:    positions.
/// Throws:   invalid_config on local_size < 0, chunk_size <= local_size or original_context < 0.
/// Source:   Training-Free Long-Context Scaling, arXiv 2402.17463; HKUNLP/ChunkLlama; vllm-project/vllm
///           rotary_embedding/dual_chunk_rope.py.
class dual_chunk {
  public:
    explicit dual_chunk(const dual_chunk_config& config = {}) : config_(config) {
        constexpr const char* who = "dual_chunk";
        detail::require(config.local_size >= 0, who, "local_size must be >= 0", config.local_size);
        detail::require(config.chunk_size > config.local_size, who, "chunk_size must be > local_size",
                        config.chunk_size);
        detail::require(std::isfinite(config.original_context) && config.original_context >= 0, who,
                        "original_context must be finite and >= 0", config.original_context);
    }

    /// The config it was made from.
    const dual_chunk_config& config() const noexcept { return config_; }
    /// The period L: all positions of keys are below it.
    index period() const noexcept { return config_.chunk_size - config_.local_size; }
    /// The chunk of a token.
    index chunk_of(std::int64_t token) const noexcept { return static_cast<index>(token / period()); }
    /// The largest position plus one: a table of rows_needed() rows is enough for every length.
    index rows_needed() const noexcept {
        return std::max(config_.chunk_size, period() + config_.chunk_size - 1) + 1;
    }

    /// The position of a key: its index in its chunk.
    std::int64_t key_position(std::int64_t token) const noexcept { return token % period(); }
    /// The position of a query for the keys of a chunk_row.
    std::int64_t query_position(chunk_row row, std::int64_t token) const noexcept {
        const std::int64_t own = token % period(), length = period(), size = config_.chunk_size;
        const std::int64_t most = config_.clamp == chunk_clamp::paper ? size - 1 : size;
        switch (row) {
            case chunk_row::previous: return std::min(own + length, most);
            case chunk_row::older: return std::min(2 * length - 1, most);
            case chunk_row::previous_critical: return own + length;
            case chunk_row::older_critical: return own + size;
            default: return own;
        }
    }
    /// The chunk_row for a query at token i and a key at token j.
    chunk_row row_for(std::int64_t i, std::int64_t j) const noexcept {
        const index behind = chunk_of(i) - chunk_of(j);
        return behind <= 0 ? chunk_row::same : behind == 1 ? chunk_row::previous : chunk_row::older;
    }
    /// The rotary distance of a query at token i and a key at token j <= i.
    std::int64_t distance(std::int64_t i, std::int64_t j) const noexcept {
        return query_position(row_for(i, j), i) - key_position(j);
    }

    /// Positions of tokens [first, first + count), for a table's rows.
    std::vector<std::int64_t> key_positions(index count, std::int64_t first = 0) const {
        return listed(count, [&](index n) { return key_position(first + n); });
    }
    /// The same for queries.
    std::vector<std::int64_t> query_positions(chunk_row row, index count, std::int64_t first = 0) const {
        return listed(count, [&](index n) { return query_position(row, first + n); });
    }

    /// g(length) = max(1, 0.1 ln(length / original_context) + 1). Prefill multiplies keys and queries by it,
    /// so logits have the factor g^2. Decode multiplies the new key and the query by g of the current length;
    /// cached keys keep the factor they were written with.
    /// Throws:   invalid_config on length < 1.
    double logit_factor(std::int64_t length) const {
        detail::require(length >= 1, "dual_chunk::logit_factor", "length must be >= 1", length);
        if (config_.original_context == 0) return 1;
        return std::max(1.0, 0.1 * std::log(static_cast<double>(length) / config_.original_context) + 1);
    }

  private:
    template <class F>
    static std::vector<std::int64_t> listed(index count, F f) {
        detail::require(count >= 0, "dual_chunk", "count must be >= 0", count);
        std::vector<std::int64_t> all(static_cast<std::size_t>(count));
        for (index n = 0; n < count; ++n) all[static_cast<std::size_t>(n)] = f(n);
        return all;
    }
    dual_chunk_config config_;
};

/// The same queries under the three rotations of dual chunk attention, each [batches, Lq, heads, channels]. A
/// member that no query needs may be a copy of another: a first chunk needs only `same`.
/// Source: arXiv 2402.17463.
template <class T>
struct dual_chunk_queries {
    heads_view<T> same;      ///< for keys of the query's own chunk
    heads_view<T> previous;  ///< for keys of the chunk before it
    heads_view<T> older;     ///< for keys of older chunks

    heads_view<T> row(chunk_row r) const noexcept {
        return r == chunk_row::same ? same : r == chunk_row::previous ? previous : older;
    }
};

/// Parameters of dual chunk attention besides its tensors.
struct dual_chunk_options {
    std::optional<double> scale = {};       ///< on q . k; 1 / sqrt(channels) when not given
    double factor = 1;                      ///< logit_factor(length): logits have its square as factor
    std::optional<index> first_query = {};  ///< token of query 0; Lk - Lq when not given
    double hidden = 0;                      ///< written for a key after its query
};

namespace detail {

template <class Q, class K>
double dual_chunk_scale(const char* who, const dual_chunk_queries<Q>& q, heads_view<K> k,
                        const dual_chunk_options& options) {
    require_readable(who, "queries", q.same);
    for (const auto& part : {q.previous, q.older}) {
        require_readable(who, "queries", part);
        require_equal(who, "queries must have the same batches", q.same.batches(), part.batches());
        require_equal(who, "queries must have the same tokens", q.same.tokens(), part.tokens());
        require_equal(who, "queries must have the same heads", q.same.heads(), part.heads());
        require_equal(who, "queries must have the same channels", q.same.channels(), part.channels());
    }
    require_readable(who, "k", k);
    require_equal(who, "k.batches must be the queries'", q.same.batches(), k.batches());
    require_equal(who, "k.channels must be the queries'", q.same.channels(), k.channels());
    require(q.same.heads() == 0 || (k.heads() > 0 && q.same.heads() % k.heads() == 0), who,
            "k.heads must be > 0 and divide the queries'", k.heads());
    const double scale =
        options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(q.same.channels(), 1))));
    require(std::isfinite(scale), who, "scale must be finite", scale);
    require(std::isfinite(options.factor), who, "factor must be finite", options.factor);
    const index first = options.first_query.value_or(k.tokens() - q.same.tokens());
    require(first >= 0, who, "first_query must be >= 0", first);
    return scale * options.factor * options.factor;
}

}  // namespace detail

/// Scores of dual chunk attention: each pair uses the query rotation for the key's chunk.
/// Shapes:   queries as dual_chunk_queries, k [batches, Lk, kv heads, channels] rotated by key_positions;
///           scores [batches, heads, Lq, Lk].
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     one dot product per visible pair, like any attention.
/// Accuracy: sums in the type of the scores.
/// Source:   arXiv 2402.17463; HKUNLP/ChunkLlama chunkllama_attn_replace.py.
template <class Q, class K, class T>
void fill_dual_chunk_scores(const dual_chunk& chunks, const dual_chunk_queries<Q>& q, heads_view<K> k,
                            std::span<T> scores, const dual_chunk_options& options = {}) {
    constexpr const char* who = "fill_dual_chunk_scores";
    const double scale = detail::dual_chunk_scale(who, q, k, options);
    const index queries = q.same.tokens(), keys = k.tokens(), heads = q.same.heads();
    const index wanted = detail::checked_product(who, "extents must be >= 0 and fit in memory",
                                                 {q.same.batches(), heads, queries, keys});
    detail::require_equal(who, "scores must hold batches * heads * Lq * Lk numbers", wanted, scores.size());
    const index first = options.first_query.value_or(keys - queries);
    const index group = heads == 0 ? 1 : heads / k.heads();
    std::vector<T> x(static_cast<std::size_t>(k.channels())), y(x);
    T* out = scores.data();
    for (index b = 0; b < q.same.batches(); ++b)
        for (index h = 0; h < heads; ++h)
            for (index n = 0; n < queries; ++n)
                for (index j = 0; j < keys; ++j, ++out) {
                    if (j > first + n) {
                        *out = static_cast<T>(options.hidden);
                        continue;
                    }
                    detail::read_row(q.row(chunks.row_for(first + n, j)).at(b, n, h), x.data(), k.channels());
                    detail::read_row(k.at(b, j, h / group), y.data(), k.channels());
                    T sum = 0;
                    for (std::size_t c = 0; c < x.size(); ++c) sum += x[c] * y[c];
                    *out = static_cast<T>(scale) * sum;
                }
}

/// The number of queries at the end of a sequence that the estimate uses: those of the last chunk, at most
/// `most`.
/// Throws:   invalid_config on tokens < 1 or most < 1.
/// Source:   vllm-project/vllm dual_chunk_flash_attn.py (sparse_attention_last_q 64).
inline index dual_chunk_estimate_queries(const dual_chunk& chunks, index tokens, index most = 64) {
    detail::require(tokens >= 1, "dual_chunk_estimate_queries", "tokens must be >= 1", tokens);
    detail::require(most >= 1, "dual_chunk_estimate_queries", "most must be >= 1", most);
    return std::min(most, (tokens - 1) % chunks.period() + 1);
}

/// The attention weight that the last queries of a sequence give to each key and to each distance. vLLM's
/// sparse variant chooses columns and diagonals by it.
/// Shapes:   column [heads, Lk], diagonal [heads, Lk], by token distance.
struct dual_chunk_weights {
    std::vector<double> column;    ///< by key
    std::vector<double> diagonal;  ///< by distance
};

/// Column and diagonal sums of the softmax of scores whose queries are the last of the sequence.
/// Shapes:   scores [heads, Lq, Lk], from fill_dual_chunk_scores with the critical queries as `previous` and
///           `older`: they preserve the order inside a chunk, which clamping loses.
/// Throws:   invalid_config on another size.
/// Source:   vllm-project/vllm dual_chunk_flash_attn.py; MInference, arXiv 2407.02490.
template <class T>
dual_chunk_weights make_dual_chunk_weights(std::span<const T> scores, index heads, index queries,
                                           index keys) {
    constexpr const char* who = "make_dual_chunk_weights";
    const index each =
        detail::checked_product(who, "heads, queries and keys must be >= 0", {heads, queries, keys});
    detail::require_equal(who, "scores must hold heads * queries * keys numbers", each, scores.size());
    detail::require(queries <= keys, who, "queries must be at most keys", queries);
    const auto size = static_cast<std::size_t>(heads * keys);
    dual_chunk_weights out{std::vector<double>(size), std::vector<double>(size)};
    std::vector<double> weight(static_cast<std::size_t>(keys));
    for (index h = 0; h < heads; ++h)
        for (index n = 0; n < queries; ++n) {
            const index seen = keys - queries + n + 1;
            const T* const row = scores.data() + (h * queries + n) * keys;
            double peak = -std::numeric_limits<double>::infinity(), sum = 0;
            for (index j = 0; j < seen; ++j) peak = std::max(peak, static_cast<double>(row[j]));
            for (index j = 0; j < seen; ++j) {
                weight[static_cast<std::size_t>(j)] = std::exp(static_cast<double>(row[j]) - peak);
                sum += weight[static_cast<std::size_t>(j)];
            }
            for (index j = 0; j < seen; ++j) {
                const double p = weight[static_cast<std::size_t>(j)] / sum;
                out.column[static_cast<std::size_t>(h * keys + j)] += p;
                out.diagonal[static_cast<std::size_t>(h * keys + seen - 1 - j)] += p;
            }
        }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
