// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <vector>

#include <ropewalk/path/block_transform.hpp>

namespace ROPEWALK_NAMESPACE::path {

struct generator_config {
    index hidden = 0;
    index kv_heads = 0;
    index channels = 0;     ///< of a head
    index heads = 0;        ///< query heads, for the forget gate; 0: no gate
    index rank = 32;        ///< of the projection to w; 0: one full projection (usual with grouped heads)
    index conv = 3;         ///< taps of the causal convolution over tokens, followed by SiLU; 0: neither
    double epsilon = 1e-6;  ///< under the root of w's norm
};

/// Row-major. An empty bias is zero.
template <class T>
struct generator_weights {
    std::span<const T> down = {};         ///< [rank, hidden]; unused with rank 0
    std::span<const T> up = {};           ///< [kv_heads * channels, rank], or [.., hidden] with rank 0
    std::span<const T> conv = {};         ///< [kv_heads * channels, taps], the last tap on the present token
    std::span<const T> beta_weight = {};  ///< [kv_heads, hidden]
    std::span<const T> beta_bias = {};    ///< [kv_heads]
    std::span<const T> gate_weight = {};  ///< [heads, hidden]
    std::span<const T> gate_bias = {};    ///< [heads]
};

/// The last inputs of the convolution, so that decoding goes on where a prefill ended.
template <class T>
struct generator_state {
    std::vector<T> history;  ///< [taps - 1, kv_heads * channels], oldest first; empty: a sequence begins
};

/// Where fill_transforms writes. An empty log_gate is not wanted.
template <class T>
struct generated {
    std::span<T> w;              ///< [tokens, kv_heads, channels]
    std::span<T> beta;           ///< [tokens, kv_heads], in [0, 2]
    std::span<T> log_gate = {};  ///< [tokens, heads], <= 0
};

/// Makes w, beta and log gates from hidden states: w = u / sqrt(|u|^2 + epsilon) head by head with
/// u = SiLU(conv(up (down x))); beta = 2 sigmoid(x W_b + b_b); log gate = log sigmoid(x W_g + b_g).
/// A u of zeros gives w = 0, the identity. T is float or double; nothing here should be of 16 bits.
/// Throws:   invalid_config on sizes that disagree.
/// Accuracy: f64 within 1e-12, f32 within 1e-5 of w and beta for order-1 inputs.
/// Source:   fla-org/flash-linear-attention, layers/path_attn.py.
template <class T>
class transform_generator {
  public:
    transform_generator(generator_config config, generator_weights<T> weights) : config_(config) {
        constexpr const char* who = "path::transform_generator";
        const auto positive = [&](index count, const char* must) {
            detail::require(count > 0, who, must, count);
        };
        positive(config.hidden, "hidden must be > 0");
        positive(config.kv_heads, "kv_heads must be > 0");
        positive(config.channels, "channels must be > 0");
        detail::require(config.heads >= 0, who, "heads must be >= 0", config.heads);
        detail::require(config.rank >= 0, who, "rank must be >= 0", config.rank);
        detail::require(config.conv >= 0, who, "conv must be >= 0", config.conv);
        detail::require(config.epsilon > 0 && std::isfinite(config.epsilon), who, "epsilon must be > 0",
                        config.epsilon);
        const auto load = [&](std::span<const T> from, index rows, index columns, const char* must) {
            detail::require(static_cast<index>(from.size()) ==
                                detail::checked_product(who, "sizes must fit", {rows, columns}),
                            who, must, from.size());
            return matrix<T>(Eigen::Map<const matrix<T>>(from.data(), rows, columns));
        };
        const auto bias = [&](std::span<const T> from, index count, const char* must) {
            return from.empty() ? matrix<T>(matrix<T>::Zero(1, count)) : load(from, 1, count, must);
        };
        const index width =
            detail::checked_product(who, "kv_heads * channels must fit", {config.kv_heads, config.channels});
        if (config.rank > 0)
            down_ = load(weights.down, config.rank, config.hidden, "down must hold rank * hidden numbers");
        up_ = load(weights.up, width, config.rank > 0 ? config.rank : config.hidden,
                   "up must hold kv_heads * channels * (rank, or hidden without) numbers");
        conv_ = load(weights.conv, config.conv > 0 ? width : 0, config.conv,
                     "conv must hold kv_heads * channels * taps numbers");
        beta_ = load(weights.beta_weight, config.kv_heads, config.hidden,
                     "beta_weight must hold kv_heads * hidden numbers");
        beta_bias_ = bias(weights.beta_bias, config.kv_heads, "beta_bias must hold kv_heads numbers");
        gate_ = load(weights.gate_weight, config.heads, config.heads > 0 ? config.hidden : 0,
                     "gate_weight must hold heads * hidden numbers");
        gate_bias_ = bias(weights.gate_bias, config.heads, "gate_bias must hold heads numbers");
    }

    /// What it was made from.
    const generator_config& config() const noexcept { return config_; }

    /// x [tokens, hidden]. With `sequence_ends` every sequence starts its own convolution; with `state` the
    /// one sequence continues an earlier call, and the state moves on.
    /// Throws:   invalid_config on sizes that disagree, or a state together with several sequences.
    void fill_transforms(std::span<const T> x, generated<T> to, std::span<const index> sequence_ends = {},
                         generator_state<T>* state = nullptr) const {
        constexpr const char* who = "path::fill_transforms";
        const index width = config_.kv_heads * config_.channels;
        const index tokens = static_cast<index>(x.size()) / config_.hidden;
        detail::require(tokens * config_.hidden == static_cast<index>(x.size()), who,
                        "x must hold tokens * hidden numbers", x.size());
        detail::require(static_cast<index>(to.w.size()) == tokens * width, who,
                        "w must hold tokens * kv_heads * channels numbers", to.w.size());
        detail::require(static_cast<index>(to.beta.size()) == tokens * config_.kv_heads, who,
                        "beta must hold tokens * kv_heads numbers", to.beta.size());
        detail::require(to.log_gate.empty() || (config_.heads > 0 && static_cast<index>(to.log_gate.size()) ==
                                                                         tokens * config_.heads),
                        who, "log_gate must hold tokens * heads numbers", to.log_gate.size());
        detail::require(!state || sequence_ends.size() <= 1, who,
                        "sequence_ends must name one sequence when a state is given", sequence_ends.size());

        const Eigen::Map<const matrix<T>> in(x.data(), tokens, config_.hidden);
        const matrix<T> u = config_.rank > 0 ? matrix<T>((in * down_.transpose()) * up_.transpose())
                                             : matrix<T>(in * up_.transpose());
        Eigen::Map<matrix<T>> w(to.w.data(), tokens, width);
        index start = 0;
        for (index end : sequence_ends) {
            detail::require(end > start && end <= tokens, who,
                            "sequence_ends must rise and end at the last token", end);
            fill_convolved(u.middleRows(start, end - start), w.middleRows(start, end - start), state);
            start = end;
        }
        detail::require(sequence_ends.empty() || start == tokens, who,
                        "sequence_ends must rise and end at the last token", start);
        if (sequence_ends.empty()) fill_convolved(u, w, state);
        for (index n = 0; n < tokens; ++n)
            for (index h = 0; h < config_.kv_heads; ++h) {
                auto row = w.row(n).segment(h * config_.channels, config_.channels);
                row /= std::sqrt(row.squaredNorm() + static_cast<T>(config_.epsilon));
            }

        Eigen::Map<matrix<T>> beta(to.beta.data(), tokens, config_.kv_heads);
        beta = (in * beta_.transpose()).rowwise() + beta_bias_.row(0);
        for (T& value : to.beta) value = 2 * sigmoid(value);
        if (to.log_gate.empty()) return;
        Eigen::Map<matrix<T>> gate(to.log_gate.data(), tokens, config_.heads);
        gate = (in * gate_.transpose()).rowwise() + gate_bias_.row(0);
        for (T& value : to.log_gate) value = std::min(value, T(0)) - std::log1p(std::exp(-std::abs(value)));
    }

  private:
    // Both tails without overflow.
    static T sigmoid(T x) noexcept {
        const T e = std::exp(-std::abs(x));
        return (x < 0 ? e : T(1)) / (1 + e);
    }
    template <class From, class To>
    void fill_convolved(const From& u, To&& w, generator_state<T>* state) const {
        w = u;
        if (config_.conv == 0) return;
        const index before = config_.conv - 1, width = u.cols();
        matrix<T> with_past = matrix<T>::Zero(before + u.rows(), width);
        with_past.bottomRows(u.rows()) = u;
        if (state && !state->history.empty()) {
            detail::require(
                static_cast<index>(state->history.size()) == before * width, "path::fill_transforms",
                "state must hold (taps - 1) * kv_heads * channels numbers", state->history.size());
            with_past.topRows(before) = Eigen::Map<const matrix<T>>(state->history.data(), before, width);
        }
        for (index n = 0; n < u.rows(); ++n)
            for (index c = 0; c < width; ++c) {
                T sum = 0;
                for (index tap = 0; tap < config_.conv; ++tap) sum += conv_(c, tap) * with_past(n + tap, c);
                w(n, c) = sum * sigmoid(sum);
            }
        if (state)
            state->history.assign(with_past.data() + u.rows() * width, with_past.data() + with_past.size());
    }

    generator_config config_;
    matrix<T> down_, up_, conv_, beta_, beta_bias_, gate_, gate_bias_;
};

}  // namespace ROPEWALK_NAMESPACE::path
