// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// transform_generator: computes PaTH's transforms and gates from hidden states, with the backward pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/path/block_transform.hpp>

namespace ROPEWALK_NAMESPACE::path {

struct generator_config {
    index hidden = 0;
    index kv_heads = 0;
    index channels = 0;     ///< of a head
    index heads = 0;        ///< query heads, for the forget gate; 0: no gate
    index rank = 32;        ///< of the projection to w; 0: one full projection (usual with grouped heads)
    index conv = 3;         ///< taps of the causal convolution over tokens, followed by SiLU; 0: neither
    double epsilon = 1e-6;  ///< added under the root of w's norm
};

/// The weights of a generator, row-major. An empty bias means zero.
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

/// The last inputs of the convolution, so that decoding continues where a prefill ended.
template <class T>
struct generator_state {
    std::vector<T> history;  ///< [taps - 1, kv_heads * channels], oldest first; empty: start of a sequence
};

/// The outputs of fill_transforms. An empty log_gate is not computed.
template <class T>
struct generated {
    std::span<T> w;              ///< [tokens, kv_heads, channels]
    std::span<T> beta;           ///< [tokens, kv_heads], in [0, 2]
    std::span<T> log_gate = {};  ///< [tokens, heads], <= 0
};

/// The gradients of a loss with respect to w, beta and the log gates (read), and with respect to the weights
/// and x (written; empty ones are not computed).
/// Shapes:   as generated, generator_weights and x.
template <class T>
struct generator_gradients {
    std::span<const T> w;              ///< read: with respect to w
    std::span<const T> beta;           ///< read: with respect to beta
    std::span<const T> log_gate = {};  ///< read: with respect to the log gates
    std::span<T> down = {};            ///< written: for the first factor of the projection to w
    std::span<T> up = {};              ///< written: for its second factor
    std::span<T> conv = {};            ///< written: for the convolution
    std::span<T> beta_weight = {};     ///< written: for the projection to beta
    std::span<T> beta_bias = {};       ///< written: by its bias
    std::span<T> gate_weight = {};     ///< written: for the projection to the forget gate
    std::span<T> gate_bias = {};       ///< written: by its bias
    std::span<T> x = {};               ///< written: for the hidden states
};

/// Computes w, beta and log gates from hidden states: w = u / sqrt(|u|^2 + epsilon) per head with u =
/// SiLU(conv(up (down x))); beta = 2 sigmoid(x W_b + b_b); log gate = log sigmoid(x W_g + b_g). A zero u
/// gives w = 0, the identity. T is float or double; 16-bit types are not precise enough here.
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

    /// The config it was made from.
    const generator_config& config() const noexcept { return config_; }

    /// x [tokens, hidden]. With `sequence_ends` every sequence starts its own convolution. With `state` the
    /// single sequence continues an earlier call, and the state is updated. Parts share the tokens.
    /// Throws:   invalid_config on sizes that disagree, or a state together with several sequences or parts.
    void fill_transforms(std::span<const T> x, generated<T> to, std::span<const index> sequence_ends = {},
                         generator_state<T>* state = nullptr, part_of part = {}) const {
        constexpr const char* who = "path::fill_transforms";
        const index width = config_.kv_heads * config_.channels, tokens = tokens_of(who, x, sequence_ends);
        detail::require_equal(who, "w must hold tokens * kv_heads * channels numbers", tokens * width,
                              to.w.size());
        detail::require_equal(who, "beta must hold tokens * kv_heads numbers", tokens * config_.kv_heads,
                              to.beta.size());
        detail::require(to.log_gate.empty() || (config_.heads > 0 && static_cast<index>(to.log_gate.size()) ==
                                                                         tokens * config_.heads),
                        who, "log_gate must hold tokens * heads numbers", to.log_gate.size());
        detail::require(!state || sequence_ends.size() <= 1, who,
                        "sequence_ends must name one sequence when a state is given", sequence_ends.size());
        detail::require_part(who, part);
        detail::require(!state || part.parts == 1, who, "parts must be 1 when a state is given", part.parts);

        const work_range own = partition(tokens, part);
        const index before = std::min(std::max<index>(config_.conv - 1, 0), own.first);
        const Eigen::Map<const matrix<T>> in(x.data(), tokens, config_.hidden);
        const matrix<T> u = projected(in.middleRows(own.first - before, before + own.count));
        Eigen::Map<matrix<T>> w(to.w.data(), tokens, width);
        each_sequence(tokens, sequence_ends, [&](index start, index end) {
            const index first = std::max(start, own.first), last = std::min(end, own.first + own.count);
            if (first >= last) return;
            const index past = std::min(before, first - start);
            const matrix<T> around = with_past(
                u.middleRows(first - past - (own.first - before), past + last - first), past, state);
            w.middleRows(first, last - first) = convolved(around, last - first);
            if (config_.conv > 0)
                for (T& value : to.w.subspan(sized(first * width), sized((last - first) * width)))
                    value *= sigmoid(value);
            if (state)
                state->history.assign(around.data() + (last - first) * width, around.data() + around.size());
        });
        for (index n = own.first; n < own.first + own.count; ++n)
            for (index h = 0; h < config_.kv_heads; ++h) {
                auto row = w.row(n).segment(h * config_.channels, config_.channels);
                row /= std::sqrt(row.squaredNorm() + static_cast<T>(config_.epsilon));
            }

        const auto ours = in.middleRows(own.first, own.count);
        Eigen::Map<matrix<T>> beta(to.beta.data(), tokens, config_.kv_heads);
        beta.middleRows(own.first, own.count) = (ours * beta_.transpose()).rowwise() + beta_bias_.row(0);
        for (T& value :
             to.beta.subspan(sized(own.first * config_.kv_heads), sized(own.count * config_.kv_heads)))
            value = 2 * sigmoid(value);
        if (to.log_gate.empty()) return;
        Eigen::Map<matrix<T>> gate(to.log_gate.data(), tokens, config_.heads);
        gate.middleRows(own.first, own.count) = (ours * gate_.transpose()).rowwise() + gate_bias_.row(0);
        for (T& value :
             to.log_gate.subspan(sized(own.first * config_.heads), sized(own.count * config_.heads)))
            value = std::min(value, T(0)) - std::log1p(std::exp(-std::abs(value)));
    }

    /// The backward pass of fill_transforms without a state: gradients with respect to every weight and x.
    /// Overwrites them.
    /// Throws:   invalid_config on sizes that disagree; nothing is written then.
    /// Cost:     three times the forward products; allocates as much as the forward pass.
    /// Accuracy: f64 within 1e-11, f32 within 1e-4 of the exact gradient for order-1 inputs.
    /// Source:   the chain rule.
    void fill_gradients(std::span<const T> x, const generator_gradients<T>& g,
                        std::span<const index> sequence_ends = {}) const {
        constexpr const char* who = "path::fill_gradients";
        const index width = config_.kv_heads * config_.channels, tokens = tokens_of(who, x, sequence_ends);
        const auto holds = [&](auto span, index count, const char* must) {
            detail::require(static_cast<index>(span.size()) == count, who, must, span.size());
        };
        holds(g.w, tokens * width, "w must hold tokens * kv_heads * channels numbers");
        holds(g.beta, tokens * config_.kv_heads, "beta must hold tokens * kv_heads numbers");
        holds(g.log_gate, config_.heads == 0 || g.log_gate.empty() ? 0 : tokens * config_.heads,
              "log_gate must hold tokens * heads numbers");
        const auto wanted = [&](std::span<T> span, const matrix<T>& weight, const char* must) {
            if (!span.empty()) holds(span, weight.size(), must);
        };
        wanted(g.down, down_, "down must hold rank * hidden numbers");
        wanted(g.up, up_, "up must hold kv_heads * channels * (rank, or hidden without) numbers");
        wanted(g.conv, conv_, "conv must hold kv_heads * channels * taps numbers");
        wanted(g.beta_weight, beta_, "beta_weight must hold kv_heads * hidden numbers");
        wanted(g.beta_bias, beta_bias_, "beta_bias must hold kv_heads numbers");
        wanted(g.gate_weight, gate_, "gate_weight must hold heads * hidden numbers");
        wanted(g.gate_bias, gate_bias_, "gate_bias must hold heads numbers");
        if (!g.x.empty()) holds(g.x, tokens * config_.hidden, "x must hold tokens * hidden numbers");

        const Eigen::Map<const matrix<T>> in(x.data(), tokens, config_.hidden);
        const Eigen::Map<const matrix<T>> by_w(g.w.data(), tokens, width);
        const auto put = [](std::span<T> to, const matrix<T>& value) {
            if (!to.empty()) Eigen::Map<matrix<T>>(to.data(), value.rows(), value.cols()) = value;
        };
        const matrix<T> u = projected(in);
        matrix<T> du = matrix<T>::Zero(tokens, width), d_conv = matrix<T>::Zero(conv_.rows(), conv_.cols());
        each_sequence(tokens, sequence_ends, [&](index start, index end) {
            const index count = end - start, before = std::max<index>(config_.conv - 1, 0);
            const matrix<T> around = with_past(u.middleRows(start, count), 0, nullptr);
            const matrix<T> sums = convolved(around, count);
            matrix<T> ds(count, width);  // with respect to the sums, or to u without a convolution
            for (index n = 0; n < count; ++n) {
                ds.row(n) = normalised_gradient(sums.row(n), by_w.row(start + n));
                for (index c = 0; c < width && config_.conv > 0; ++c) {
                    const T share = sigmoid(sums(n, c));
                    ds(n, c) *= share * (1 + sums(n, c) * (1 - share));
                }
            }
            if (config_.conv == 0) {
                du.middleRows(start, count) = ds;
                return;
            }
            for (index tap = 0; tap < config_.conv; ++tap) {
                d_conv.col(tap) += ds.cwiseProduct(around.middleRows(tap, count)).colwise().sum().transpose();
                // The sum of token n reads token n + tap - before.
                const index late = before - tap, held = std::max<index>(count - late, 0);
                du.middleRows(start, held) += ds.bottomRows(held) * conv_.col(tap).asDiagonal();
            }
        });
        matrix<T> dx = matrix<T>::Zero(tokens, config_.hidden);
        if (config_.rank > 0) {
            const matrix<T> low = in * down_.transpose(), d_low = du * up_;
            put(g.up, du.transpose() * low);
            put(g.down, d_low.transpose() * in);
            dx.noalias() += d_low * down_;
        } else {
            put(g.up, du.transpose() * in);
            dx.noalias() += du * up_;
        }
        put(g.conv, d_conv);

        const auto linear = [&](const matrix<T>& by_logit, const matrix<T>& weight, std::span<T> to,
                                std::span<T> bias) {
            put(to, by_logit.transpose() * in);
            put(bias, by_logit.colwise().sum());
            dx.noalias() += by_logit * weight;
        };
        const auto logits = [&](const matrix<T>& weight, const matrix<T>& bias) {
            return matrix<T>((in * weight.transpose()).rowwise() + bias.row(0));
        };
        const Eigen::Map<const matrix<T>> by_beta(g.beta.data(), tokens, config_.kv_heads);
        linear(by_beta.cwiseProduct(
                   logits(beta_, beta_bias_).unaryExpr([](T z) { return 2 * sigmoid(z) * sigmoid(-z); })),
               beta_, g.beta_weight, g.beta_bias);
        if (!g.log_gate.empty()) {
            const Eigen::Map<const matrix<T>> by_gate(g.log_gate.data(), tokens, config_.heads);
            linear(by_gate.cwiseProduct(logits(gate_, gate_bias_).unaryExpr([](T z) { return sigmoid(-z); })),
                   gate_, g.gate_weight, g.gate_bias);
        } else {
            std::fill(g.gate_weight.begin(), g.gate_weight.end(), T(0));
            std::fill(g.gate_bias.begin(), g.gate_bias.end(), T(0));
        }
        put(g.x, dx);
    }

  private:
    // Written so that neither tail overflows.
    static T sigmoid(T x) noexcept {
        const T e = std::exp(-std::abs(x));
        return (x < 0 ? e : T(1)) / (1 + e);
    }
    static std::size_t sized(index n) noexcept { return static_cast<std::size_t>(n); }
    /// The number of tokens of x. Throws if sequence_ends do not end there.
    index tokens_of(const char* who, std::span<const T> x, std::span<const index> sequence_ends) const {
        const index tokens = static_cast<index>(x.size()) / config_.hidden;
        detail::require_equal(who, "x must hold tokens * hidden numbers", tokens * config_.hidden, x.size());
        index start = 0;
        for (index end : sequence_ends) {
            detail::require(end > start && end <= tokens, who,
                            "sequence_ends must rise and end at the last token", end);
            start = end;
        }
        detail::require(sequence_ends.empty() || start == tokens, who,
                        "sequence_ends must rise and end at the last token", start);
        return tokens;
    }
    template <class Run>
    static void each_sequence(index tokens, std::span<const index> ends, Run run) {
        index start = 0;
        for (index end : ends) {
            run(start, end);
            start = end;
        }
        if (ends.empty() && tokens > 0) run(0, tokens);
    }
    template <class In>
    matrix<T> projected(const In& in) const {
        if (config_.rank == 0) return in * up_.transpose();
        const matrix<T> low = in * down_.transpose();
        return low * up_.transpose();
    }
    /// The inputs of the convolution: u already has `past` of the preceding rows; others come from the state
    /// or are 0.
    template <class From>
    matrix<T> with_past(const From& u, index past, const generator_state<T>* state) const {
        const index before = std::max<index>(config_.conv - 1, 0), width = u.cols();
        matrix<T> around = matrix<T>::Zero(before - past + u.rows(), width);
        around.bottomRows(u.rows()) = u;
        if (!state || state->history.empty()) return around;
        detail::require(static_cast<index>(state->history.size()) == before * width, "path::fill_transforms",
                        "state must hold (taps - 1) * kv_heads * channels numbers", state->history.size());
        around.topRows(before) = Eigen::Map<const matrix<T>>(state->history.data(), before, width);
        return around;
    }
    /// The last `count` sums of the convolution; without a convolution, the rows themselves.
    matrix<T> convolved(const matrix<T>& around, index count) const {
        if (config_.conv == 0) return around;
        matrix<T> sums = matrix<T>::Zero(count, around.cols());
        for (index tap = 0; tap < config_.conv; ++tap)
            sums += around.middleRows(tap, count) * conv_.col(tap).asDiagonal();
        return sums;
    }
    /// The gradient with respect to a token's rows before the normalisation, from the sums of the convolution
    /// before SiLU.
    template <class Sums, class By>
    matrix<T> normalised_gradient(const Sums& sums, const By& by_w) const {
        matrix<T> d(1, sums.cols());
        for (index h = 0; h < config_.kv_heads; ++h) {
            matrix<T> y = sums.segment(h * config_.channels, config_.channels);
            if (config_.conv > 0) y = y.unaryExpr([](T s) { return s * sigmoid(s); });
            const auto by = by_w.segment(h * config_.channels, config_.channels);
            const T norm = std::sqrt(y.squaredNorm() + static_cast<T>(config_.epsilon));
            y /= norm;
            d.row(0).segment(h * config_.channels, config_.channels) =
                (by - by.dot(y.row(0)) * y.row(0)) / norm;
        }
        return d;
    }

    generator_config config_;
    matrix<T> down_, up_, conv_, beta_, beta_bias_, gate_, gate_bias_;
};

}  // namespace ROPEWALK_NAMESPACE::path
