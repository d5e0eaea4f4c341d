// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Chunked attention with a recurrent memory: full, windowed and memory branches, and the gated memory bank.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/kernels/rotate.hpp>

/// Chunked attention with a recurrent memory. Three branches are mixed by learned weights: full and windowed
/// causal attention inside a chunk, with rotated queries and keys, and attention of the unrotated queries
/// over a small bank of memory rows. The bank is written once per chunk, through a gate, first in first out.
/// Source: arXiv 2507.00453 names the branches and their mixing; masks, positions and the gate are this
///         library's interpretation.
namespace ROPEWALK_NAMESPACE::attention {

/// Positions of a chunk's tokens: 0, 1, ... in every chunk, or counted from the first chunk on. Scores inside
/// a chunk are the same.
enum class chunk_positions : std::uint8_t { chunk, global };

/// Whether the keys of a chunk are unrotated, or come from a cache that stores them rotated.
enum class chunk_keys : std::uint8_t { plain, rotated };

struct chunk_config {
    index chunk = 512;                                   ///< tokens of a full chunk
    index local_window = 64;                             ///< tokens of a window; windows do not overlap
    chunk_positions positions = chunk_positions::chunk;  ///< the positions of a chunk's tokens
    pair_layout layout = half_split{};
    chunk_keys keys = chunk_keys::plain;  ///< rotated: attend_chunk does not rotate them
};

/// One chunk, or its newest tokens with a cache of the chunk so far (decode): the queries are the last of the
/// keys' tokens. T: any element type; arithmetic is f64 for f64, else f32. Empty memory views: no memory yet.
template <class T>
struct chunk_tensors {
    heads_view<const T> q;  ///< [batches, queries, heads, channels], not rotated
    heads_view<const T> k;  ///< [batches, tokens <= chunk, kv heads, channels], from the chunk's first on
    heads_view<const T> v;  ///< like k
    heads_view<const T> memory_k;  ///< [batches, slots, kv heads, channels], never rotated
    heads_view<const T> memory_v;  ///< like memory_k
    heads_view<T> out;             ///< like q
    heads_view<T> full = {};       ///< the branch over the chunk, written when given
    heads_view<T> local = {};      ///< the branch over windows, written when given
    heads_view<T> memory = {};     ///< the branch over the memory, written when given
};

/// The weights of the branches: the softmax of the (full, local, memory) logits. Without memory rows the
/// softmax is over the first two only, and the memory branch has weight 0.
/// Throws: invalid_config on logits that are not finite.
inline std::vector<double> branch_weights(std::span<const double> logits, index memory_slots) {
    constexpr const char* who = "branch_weights";
    detail::require(logits.size() == 3, who, "logits must be 3", logits.size());
    for (double v : logits) detail::require(std::isfinite(v), who, "logits must be finite", v);
    const std::size_t used = memory_slots > 0 ? 3 : 2;
    const double peak = *std::max_element(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(used));
    std::vector<double> weights(3, 0.0);
    double sum = 0;
    for (std::size_t i = 0; i < used; ++i) sum += weights[i] = std::exp(logits[i] - peak);
    for (double& w : weights) w /= sum;
    return weights;
}

/// The three branches of one chunk and their mix. A chunk at once, in pieces, or token by token over a cache
/// of the chunk's keys gives the same result.
/// Shapes:   as in chunk_tensors; the kv heads divide the heads. `frequencies` a spectrum of channels / 2
///           pairs, one axis; chunk_index counts from 0; logits (full, local, memory).
/// Throws:   invalid_config on sizes that disagree, a window or chunk of 0, more tokens than a chunk, more
///           queries than tokens, or a first position (chunk_index * chunk) that does not fit.
/// Cost:     attend under three masks: causal, causal inside windows, and all of the memory; tiles that a
///           mask hides are skipped. Allocates what the branches of one kv head write and its rotated queries
///           and keys.
/// Accuracy: f64 within 1e-12, f32 within 1e-5, for order-1 inputs. A token that a branch hides from a query
///           cannot change that branch, NaN included.
/// Source:   arXiv 2507.00453, section 3, as read above.
template <class T>
void attend_chunk(const chunk_config& config, const spectrum& frequencies, const chunk_tensors<T>& t,
                  index chunk_index, std::span<const double> logits) {
    using C = compute_t<T>;
    constexpr const char* who = "attend_chunk";
    const index queries = t.q.tokens(), tokens = t.k.tokens(), heads = t.q.heads(), kv_heads = t.k.heads(),
                channels = t.q.channels(), batches = t.q.batches(), slots = t.memory_k.tokens();
    detail::require(config.chunk > 0, who, "chunk must be > 0", config.chunk);
    detail::require(config.local_window > 0, who, "local_window must be > 0", config.local_window);
    detail::require(chunk_index >= 0, who, "chunk_index must be >= 0", chunk_index);
    detail::require(tokens <= config.chunk, who, "tokens must be at most a chunk", tokens);
    detail::require(queries <= tokens, who, "q must have at most k's tokens", queries);
    detail::require(heads == 0 || (kv_heads > 0 && heads % kv_heads == 0), who,
                    "k.heads must be > 0 and divide q.heads", kv_heads);
    const auto same = [&](const auto& view, index rows, index of_heads, const char* must) {
        detail::require(view.batches() == batches && view.tokens() == rows && view.heads() == of_heads &&
                            view.channels() == channels,
                        who, must, view.tokens());
    };
    same(t.k, tokens, kv_heads, "k must have q's batches and channels, its tokens");
    same(t.v, tokens, kv_heads, "v must have k's extents, its tokens");
    same(t.out, queries, heads, "out must have q's extents, its tokens");
    for (const auto& branch : {t.full, t.local, t.memory})
        if (branch.data)
            same(branch, queries, heads, "full, local and memory must have q's extents, their tokens");
    if (slots > 0) same(t.memory_k, slots, kv_heads, "memory_k must have k's heads and channels, its slots");
    detail::require(t.memory_v.tokens() == slots, who, "memory_v must have memory_k's slots",
                    t.memory_v.tokens());
    if (slots > 0) same(t.memory_v, slots, kv_heads, "memory_v must have k's heads and channels, its slots");
    detail::require(frequencies.axes() == 1 && 2 * frequencies.pairs() == channels, who,
                    "frequencies must have channels / 2 pairs", frequencies.pairs());
    const auto weights = branch_weights(logits, slots);
    const index first =
        config.positions == chunk_positions::global
            ? detail::checked_product(who, "chunk_index * chunk must fit", {chunk_index, config.chunk})
            : 0;
    if (queries == 0 || heads == 0 || batches == 0) return;

    // One kv head and its query heads at a time, so that what they leave behind stays in the cache.
    const index group = heads / kv_heads;
    const auto buffer = [&](index rows, index of_heads) {
        constexpr const char* must = "extents must be >= 0 and fit in memory";
        return std::vector<C>(
            static_cast<std::size_t>(detail::checked_product(who, must, {rows, of_heads, channels})));
    };
    const auto rows_from = [&](index position, index count) {
        return make_rotation_table<C>(frequencies, position_ids::text(count, static_cast<double>(position)));
    };
    const bool rotates = config.keys == chunk_keys::plain;
    const auto query_rows = rows_from(first + tokens - queries, queries),
               key_rows = rows_from(first, rotates ? tokens : 0);
    auto q_numbers = buffer(queries, group), k_numbers = buffer(rotates ? tokens : 0, 1);
    auto full_numbers = q_numbers, local_numbers = q_numbers, memory_numbers = q_numbers;
    const heads_view<C> q(q_numbers.data(), queries, group, channels),
        k(k_numbers.data(), tokens, 1, channels), full(full_numbers.data(), q.shape),
        local(local_numbers.data(), q.shape), memory(memory_numbers.data(), q.shape);
    const auto rotated = [&](heads_view<const T> from, heads_view<C> to, const auto& rows) {
        for (index n = 0; n < from.tokens(); ++n)
            for (index h = 0; h < from.heads(); ++h)
                detail::read_row(from.at(0, n, h), to.at(0, n, h), channels);
        rotate(config.layout, to, rows);
    };
    std::vector<std::byte> workspace(static_cast<std::size_t>(attend_workspace(q, t.k, t.v)));
    const std::span<std::byte> room(workspace);
    const causal_mask causal;
    const auto windows = both(causal, block_mask{.block = config.local_window});
    const C share[] = {static_cast<C>(weights[0]), static_cast<C>(weights[1]), static_cast<C>(weights[2])};
    const auto mix = [&](heads_view<T> out, heads_view<T> to_full, heads_view<T> to_local,
                         heads_view<T> to_memory) {
        std::vector<C> mixed(static_cast<std::size_t>(channels));
        for (index n = 0; n < queries; ++n)
            for (index h = 0; h < group; ++h) {
                const C *f = full.at(0, n, h), *l = local.at(0, n, h), *m = memory.at(0, n, h);
                for (index c = 0; c < channels; ++c)
                    mixed[static_cast<std::size_t>(c)] = share[0] * f[c] + share[1] * l[c] + share[2] * m[c];
                detail::write_row(mixed.data(), out.at(0, n, h), channels);
                if (to_full.data) detail::write_row(f, to_full.at(0, n, h), channels);
                if (to_local.data) detail::write_row(l, to_local.at(0, n, h), channels);
                if (to_memory.data) detail::write_row(m, to_memory.at(0, n, h), channels);
            }
    };
    for (index b = 0; b < batches; ++b)
        for (index kv = 0; kv < kv_heads; ++kv) {
            const auto of_queries = [&](auto view) {
                return view.data ? view.batch_slice(b, 1).head_slice(kv * group, group) : view;
            };
            const auto of_keys = [&](auto view) { return view.batch_slice(b, 1).head_slice(kv, 1); };
            const auto own_k = of_keys(t.k), v = of_keys(t.v);
            rotated(of_queries(t.q), q, query_rows);
            if (rotates) {
                rotated(own_k, k, key_rows);
                attend(causal, q, k, v, full, room);
                attend(windows, q, k, v, local, room);
            } else {
                attend(causal, q, own_k, v, full, room);
                attend(windows, q, own_k, v, local, room);
            }
            if (slots > 0)
                attend(full_mask{}, of_queries(t.q), of_keys(t.memory_k), of_keys(t.memory_v), memory, room);
            mix(of_queries(t.out), of_queries(t.full), of_queries(t.local), of_queries(t.memory));
        }
}

/// The weights through which a summary enters the bank. Empty: unchanged (z = 1, candidate = summary).
template <class T>
struct memory_weights {
    std::span<const T> gate = {};       ///< [dim, 2 dim], on (newest row, summary)
    std::span<const T> gate_bias = {};  ///< [dim]
    std::span<const T> candidate = {};  ///< [dim, dim]
};

/// A bank of `slots` memory rows as a ring: a write replaces the oldest row and moves no others.
///     z = sigmoid(W_z [m ; s] + b_z),  candidate = tanh(W_c s),  new row = (1 - z) m + z candidate
/// with m the newest row and s the summary of a chunk. The bank begins as zeros.
/// Throws:   invalid_config on sizes that disagree or no slots.
/// Cost:     3 dim^2 multiply-adds per write.
/// Accuracy: f64 within 1e-12, f32 within 1e-5, for order-1 weights.
/// Source:   arXiv 2507.00453, the gated first-in-first-out memory, as interpreted above.
template <class T>
class memory_bank {
  public:
    memory_bank(index slots, index dim, memory_weights<T> weights = {}) : slots_(slots), dim_(dim) {
        constexpr const char* who = "memory_bank";
        detail::require(slots > 0, who, "slots must be > 0", slots);
        detail::require(dim > 0, who, "dim must be > 0", dim);
        // 2 dim^2 is the gate's size; if it fits, no size below overflows.
        detail::checked_product(who, "slots * dim must fit", {slots, dim});
        detail::checked_product(who, "2 * dim * dim must fit", {2, dim, dim});
        gated_ = !weights.gate.empty() || !weights.candidate.empty();
        if (gated_) {
            gate_ = load(weights.gate, dim, 2 * dim, "gate must hold dim * 2 dim numbers");
            candidate_ = load(weights.candidate, dim, dim, "candidate must hold dim * dim numbers");
            bias_ = vector::Zero(dim);
            if (!weights.gate_bias.empty())
                bias_ = load(weights.gate_bias, dim, 1, "gate_bias must hold dim numbers").col(0);
        }
        rows_ = matrix::Zero(slots, dim);
    }

    /// Memory vectors held.
    index slots() const noexcept { return slots_; }
    /// Channels of a memory vector.
    index dim() const noexcept { return dim_; }
    /// All rows in storage order, [slots, dim]; row 0 need not be the oldest. Attention over the memory has
    /// no positions, so the order does not matter to it.
    std::span<const T> storage() const noexcept {
        return {rows_.data(), static_cast<std::size_t>(slots_ * dim_)};
    }
    /// Row `age`, 0 the oldest, slots - 1 the newest. Any other age is a misfit and, where the program
    /// continues, returns an empty span.
    std::span<const T> row(index age) const noexcept {
        if (age < 0 || age >= slots_) {
            detail::tell("memory_bank::row", {"age must be >= 0 and below the slots, last", slots_ - 1, age});
            return {};
        }
        return {rows_.data() + (oldest_ + age) % slots_ * dim_, static_cast<std::size_t>(dim_)};
    }
    /// Replaces the contents: [slots, dim], oldest first.
    void assign(std::span<const T> rows) {
        rows_ = load(rows, slots_, dim_, "rows must hold slots * dim numbers");
        oldest_ = 0;
    }
    /// Writes one row; several rows per chunk are several writes in order. Returns z, [dim] (ones without a
    /// gate).
    std::vector<T> write(std::span<const T> summary) {
        detail::require(static_cast<index>(summary.size()) == dim_, "memory_bank::write",
                        "summary must hold dim numbers", summary.size());
        const vector s = Eigen::Map<const vector>(summary.data(), dim_);
        const vector newest = rows_.row((oldest_ + slots_ - 1) % slots_).transpose();
        vector z = vector::Ones(dim_), fresh = s;
        if (gated_) {
            const vector logit = gate_.leftCols(dim_) * newest + gate_.rightCols(dim_) * s + bias_;
            // Written so that neither tail overflows.
            z = logit.unaryExpr([](T x) {
                const T e = std::exp(-std::abs(x));
                return (x < 0 ? e : T(1)) / (1 + e);
            });
            fresh = (candidate_ * s).unaryExpr([](T x) { return std::tanh(x); });
        }
        rows_.row(oldest_) =
            ((1 - z.array()) * newest.array() + z.array() * fresh.array()).matrix().transpose();
        oldest_ = (oldest_ + 1) % slots_;
        return {z.data(), z.data() + dim_};
    }

  private:
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
    static matrix load(std::span<const T> from, index rows, index columns, const char* must) {
        detail::require(static_cast<index>(from.size()) == rows * columns, "memory_bank", must, from.size());
        return Eigen::Map<const matrix>(from.data(), rows, columns);
    }
    index slots_, dim_, oldest_ = 0;
    bool gated_ = false;
    matrix gate_, candidate_, rows_;
    vector bias_;
};

}  // namespace ROPEWALK_NAMESPACE::attention
