// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

/// Chunked attention with a recurrent memory: inside a chunk full and windowed causal attention with
/// rotated queries and keys, beside them attention of the unrotated queries over a small bank of memory
/// rows, mixed by learned weights; the bank is written once a chunk, through a gate, first in first out.
/// Source: arXiv 2507.00453 names the branches and their mixing; masks, positions and the gate are this
///         library's reading of it.
namespace ROPEWALK_NAMESPACE::attention {

/// Where a chunk's tokens stand: 0, 1, .. in every chunk, or counted from the first chunk on. Scores inside a
/// chunk are the same.
enum class chunk_positions : std::uint8_t { chunk, global };

struct chunk_config {
    index chunk = 512;                                   ///< tokens of a full chunk
    index local_window = 64;                             ///< tokens of a window; windows do not overlap
    chunk_positions positions = chunk_positions::chunk;  ///< where a chunk's tokens stand
    pair_layout layout = half_split{};
};

/// One chunk. T: double or float. Empty memory views: no memory yet.
template <class T>
struct chunk_tensors {
    heads_view<const T> q;         ///< [1, tokens <= chunk, heads, channels], not rotated
    heads_view<const T> k;         ///< like q
    heads_view<const T> v;         ///< like q
    heads_view<const T> memory_k;  ///< [1, slots, heads, channels], never rotated
    heads_view<const T> memory_v;  ///< like memory_k
    heads_view<T> out;             ///< [1, tokens, heads, channels]
    heads_view<T> full = {};       ///< the branch over the chunk, written when given
    heads_view<T> local = {};      ///< the branch over windows, written when given
    heads_view<T> memory = {};     ///< the branch over the memory, written when given
};

/// Softmax of (full, local, memory) logits: how the branches are mixed. Without memory rows that branch has
/// weight 0 and the others share the rest.
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

/// The three branches of one chunk and their mix. Queries and keys are rotated once and their scores formed
/// once for the full and the local branch, which take two softmaxes over the same tile.
/// Shapes:   as in chunk_tensors; `frequencies` a spectrum of channels / 2 pairs, one axis; chunk_index
///           counts from 0; logits (full, local, memory).
/// Throws:   invalid_config on sizes that disagree, a window or chunk of 0, more tokens than a chunk, or a
///           first position (chunk_index * chunk) that does not fit.
/// Cost:     tokens^2 channels multiply-adds a head for scores, twice that for values, tokens slots channels
///           for memory.
/// Accuracy: f64 within 1e-12, f32 within 1e-5, for order-1 inputs. A token that a branch hides from a query
///           cannot change that branch, NaN included.
/// Source:   arXiv 2507.00453, section 3, as read above.
template <class T>
void attend_chunk(const chunk_config& config, const spectrum& frequencies, const chunk_tensors<T>& t,
                  index chunk_index, std::span<const double> logits) {
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    constexpr const char* who = "attend_chunk";
    const index tokens = t.q.tokens(), heads = t.q.heads(), channels = t.q.channels(),
                slots = t.memory_k.tokens();
    detail::require(config.chunk > 0, who, "chunk must be > 0", config.chunk);
    detail::require(config.local_window > 0, who, "local_window must be > 0", config.local_window);
    detail::require(chunk_index >= 0, who, "chunk_index must be >= 0", chunk_index);
    detail::require(tokens <= config.chunk, who, "tokens must be at most a chunk", tokens);
    const auto same = [&](const auto& view, index rows, const char* must) {
        detail::require(view.batches() == 1 && view.tokens() == rows && view.heads() == heads &&
                            view.channels() == channels,
                        who, must, view.tokens());
    };
    same(t.q, tokens, "q must be one batch, its tokens");
    same(t.k, tokens, "k must have q's extents, its tokens");
    same(t.v, tokens, "v must have q's extents, its tokens");
    same(t.out, tokens, "out must have q's extents, its tokens");
    for (const auto& branch : {t.full, t.local, t.memory})
        if (branch.data) same(branch, tokens, "full, local and memory must have q's extents, their tokens");
    if (slots > 0) same(t.memory_k, slots, "memory_k must have q's heads and channels, its slots");
    detail::require(t.memory_v.tokens() == slots, who, "memory_v must have memory_k's slots",
                    t.memory_v.tokens());
    if (slots > 0) same(t.memory_v, slots, "memory_v must have q's heads and channels, its slots");
    detail::require(frequencies.axes() == 1 && 2 * frequencies.pairs() == channels, who,
                    "frequencies must have channels / 2 pairs", frequencies.pairs());
    const auto weights = branch_weights(logits, slots);
    if (tokens == 0 || heads == 0) return;

    const index first_token =
        config.positions == chunk_positions::global
            ? detail::checked_product(who, "chunk_index * chunk must fit", {chunk_index, config.chunk})
            : 0;
    const auto first = static_cast<double>(first_token);
    const auto table = make_rotation_table<T>(frequencies, position_ids::text(tokens, first));
    std::vector<T> rotated_q(static_cast<std::size_t>(tokens * heads * channels)),
        rotated_k(rotated_q.size());
    const heads_view<T> q(rotated_q.data(), tokens, heads, channels),
        k(rotated_k.data(), tokens, heads, channels);
    rotate_into(config.layout, t.q, q, table);
    rotate_into(config.layout, t.k, k, table);

    const auto rows = [&](const auto& view, index h) {
        using E = std::remove_pointer_t<decltype(view.data)>;
        return Eigen::Map<
            const Eigen::Matrix<std::remove_const_t<E>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>, 0,
            Eigen::OuterStride<>>(view.at(0, 0, h), view.tokens(), channels,
                                  Eigen::OuterStride<>(view.strides.token));
    };
    const auto scale = static_cast<T>(1 / std::sqrt(static_cast<double>(channels)));
    // Row n over the keys begin .. end of it; zeros elsewhere.
    const auto softmax = [](auto row, index begin, index end) {
        row.head(begin).setZero();
        row.tail(row.size() - end).setZero();
        auto seen = row.segment(begin, end - begin);
        const T peak = seen.maxCoeff();
        seen = (seen.array() - peak).exp();
        seen /= seen.sum();
    };
    const auto write = [](const heads_view<T>& to, index h, const matrix& values) {
        for (index n = 0; n < values.rows(); ++n)
            std::copy_n(values.row(n).data(), values.cols(), to.at(0, n, h));
    };
    for (index h = 0; h < heads; ++h) {
        matrix full = scale * rows(q, h) * rows(k, h).transpose(), local = full;
        for (index n = 0; n < tokens; ++n) {
            softmax(full.row(n), 0, n + 1);
            softmax(local.row(n), n / config.local_window * config.local_window, n + 1);
        }
        const auto values = rows(t.v, h);
        matrix of_full, of_local;
        if (values.allFinite()) {
            of_full = full * values;
            of_local = local * values;
        } else {  // what a query does not see stays out: 0 times NaN is no 0
            of_full.resize(tokens, channels);
            of_local.resize(tokens, channels);
            for (index n = 0; n < tokens; ++n) {
                const index begin = n / config.local_window * config.local_window, count = n + 1 - begin;
                of_full.row(n) = full.row(n).head(n + 1) * values.topRows(n + 1);
                of_local.row(n) = local.row(n).segment(begin, count) * values.middleRows(begin, count);
            }
        }
        matrix of_memory = matrix::Zero(tokens, channels);
        if (slots > 0) {
            matrix scores = scale * rows(t.q, h) * rows(t.memory_k, h).transpose();
            for (index n = 0; n < tokens; ++n) softmax(scores.row(n), 0, slots);
            of_memory = scores * rows(t.memory_v, h);
        }
        if (t.full.data) write(t.full, h, of_full);
        if (t.local.data) write(t.local, h, of_local);
        if (t.memory.data) write(t.memory, h, of_memory);
        write(t.out, h,
              static_cast<T>(weights[0]) * of_full + static_cast<T>(weights[1]) * of_local +
                  static_cast<T>(weights[2]) * of_memory);
    }
}

/// How a summary enters the bank. Empty weights: as it is (z = 1, candidate = summary).
template <class T>
struct memory_weights {
    std::span<const T> gate = {};       ///< [dim, 2 dim], on (newest row, summary)
    std::span<const T> gate_bias = {};  ///< [dim]
    std::span<const T> candidate = {};  ///< [dim, dim]
};

/// A bank of `slots` memory rows as a ring: writing replaces the oldest row and moves none.
///     z = sigmoid(W_z [m ; s] + b_z),  candidate = tanh(W_c s),  new row = (1 - z) m + z candidate
/// with m the newest row and s the summary of a chunk. The bank begins as zeros.
/// Throws:   invalid_config on sizes that disagree or no slots.
/// Cost:     3 dim^2 multiply-adds a write.
/// Accuracy: f64 within 1e-12, f32 within 1e-5, for order-1 weights.
/// Source:   arXiv 2507.00453, the gated first-in-first-out memory, as read above.
template <class T>
class memory_bank {
  public:
    memory_bank(index slots, index dim, memory_weights<T> weights = {}) : slots_(slots), dim_(dim) {
        constexpr const char* who = "memory_bank";
        detail::require(slots > 0, who, "slots must be > 0", slots);
        detail::require(dim > 0, who, "dim must be > 0", dim);
        // 2 dim^2 is the gate's size: beyond that no size below overflows.
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
    /// All rows as they lie, [slots, dim], row 0 not the oldest: enough for attention, which has no
    /// positions.
    std::span<const T> storage() const noexcept {
        return {rows_.data(), static_cast<std::size_t>(slots_ * dim_)};
    }
    /// Row `age`, 0 the oldest, slots - 1 the newest. Another age is a misfit and, where the program goes on,
    /// empty.
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
    /// One write; several rows a chunk are several writes in order. Returns z, [dim] (ones without a gate).
    std::vector<T> write(std::span<const T> summary) {
        detail::require(static_cast<index>(summary.size()) == dim_, "memory_bank::write",
                        "summary must hold dim numbers", summary.size());
        const vector s = Eigen::Map<const vector>(summary.data(), dim_);
        const vector newest = rows_.row((oldest_ + slots_ - 1) % slots_).transpose();
        vector z = vector::Ones(dim_), fresh = s;
        if (gated_) {
            const vector logit = gate_.leftCols(dim_) * newest + gate_.rightCols(dim_) * s + bias_;
            // Both tails without overflow.
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
