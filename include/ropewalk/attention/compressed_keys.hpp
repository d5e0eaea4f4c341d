// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// DeepSeek V4's compressed keys: pooling of token windows, and attention over them beside a sliding window.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/frequencies/yarn.hpp>

/// DeepSeek V4 pools windows of tokens into compressed keys and attends to them beside a sliding window. Keys
/// are also the values, so an output contains the rotation of the keys and is rotated back at the query's
/// position.
/// Source: huggingface/transformers models/deepseek_v4; vllm-project/vllm deepseek_compressor.py.
namespace ROPEWALK_NAMESPACE::compressed_keys {

struct spectrum_config {
    index rotary_dim = 64;
    double base = 160000;
    double factor = 16;  ///< 1: no scaling
    double original_context = 65536;
    double beta_fast = 32;
    double beta_slow = 1;
};

/// The spectrum of layers with a compressor, for all of their queries and keys: YaRN with magnitude 1. Any
/// other magnitude would remain in the output as its square after rotating back.
/// Throws:   invalid_config as yarn.
/// Source:   huggingface/transformers models/deepseek_v4 (attention_factor 1).
inline spectrum make_spectrum(const spectrum_config& c = {}) {
    return frequencies::yarn({.rotary_dim = c.rotary_dim,
                              .base = c.base,
                              .factor = c.factor,
                              .original_context = c.original_context,
                              .beta_fast = c.beta_fast,
                              .beta_slow = c.beta_slow,
                              .attention_factor = 1.0});
}

/// Whether a window is pooled alone (HCA) or together with a second series of values of the window before it
/// (CSA).
enum class overlap : std::uint8_t { none, previous };

struct pool_config {
    index rate = 128;              ///< tokens per window
    overlap with = overlap::none;  ///< whether the window before it is pooled too
    double epsilon = 1e-6;         ///< of the RMS norm
    index first_window = 0;        ///< index of the first window in the sequence
};

/// The inputs of the learned pooling of windows.
struct pool_inputs {
    std::span<const double> values;  ///< kv [tokens, width], width = channels, or twice that with overlap
    std::span<const double> gates;   ///< [tokens, width]
    std::span<const double> bias;    ///< position_bias [rate, width], added to the gates
    std::span<const double> weight;  ///< of the norm, [channels]
    /// With overlap and a first_window > 0: values of the window before the first, [rate, width]. A prompt
    /// that is pooled in pieces then has the same keys as in one piece.
    std::span<const double> before_values = {};
    std::span<const double> before_gates = {};  ///< gates of that window
};

/// Positions of the keys of windows: those of their first tokens.
/// Shapes:   [windows].
/// Source:   huggingface/transformers DeepseekV4CSACompressor.
inline std::vector<double> window_positions(const pool_config& c, index windows) {
    std::vector<double> at;
    for (index w = 0; w < windows; ++w) at.push_back(static_cast<double>((c.first_window + w) * c.rate));
    return at;
}

/// Pools complete windows channel by channel: the values of a window's tokens (and, with overlap, of the
/// first series of the window before) are averaged with softmax(gate + bias) as weights; an RMS norm follows.
/// The keys are not rotated yet. Tokens after the last complete window are not used.
/// Shapes:   the result [tokens / rate, channels]; with overlap, series a of the inputs is channels [0,
///           channels), which the next window uses, and series b is the second half.
/// Throws:   invalid_config on a rate < 1, sizes that disagree, or an epsilon that is not finite and >= 0.
/// Accuracy: f64.
/// Source:   huggingface/transformers DeepseekV4HCACompressor, DeepseekV4CSACompressor.
inline std::vector<double> pool(const pool_config& c, const pool_inputs& in) {
    constexpr const char* who = "compressed_keys::pool";
    detail::require(c.rate >= 1, who, "rate must be >= 1", c.rate);
    detail::require(std::isfinite(c.epsilon) && c.epsilon >= 0, who, "epsilon must be finite and >= 0",
                    c.epsilon);
    detail::require(c.first_window >= 0, who, "first_window must be >= 0", c.first_window);
    const auto channels = static_cast<index>(in.weight.size());
    detail::require(channels >= 1, who, "weight must hold a number a channel", channels);
    const bool joined = c.with == overlap::previous;
    const index width = joined ? 2 * channels : channels;
    const auto numbers = static_cast<index>(in.values.size());
    detail::require(numbers % width == 0, who, "values must hold tokens * width numbers", numbers);
    detail::require_equal(who, "gates must be as many as values", numbers, in.gates.size());
    detail::require_equal(who, "bias must hold rate * width numbers",
                          detail::checked_product(who, "rate must fit", {c.rate, width}), in.bias.size());
    const index before = joined && c.first_window > 0 ? c.rate * width : 0;
    detail::require(
        static_cast<index>(in.before_values.size()) == before, who,
        "before_values must hold rate * width numbers with overlap and first_window > 0, else none",
        in.before_values.size());
    detail::require_equal(who, "before_gates must be as many as before_values", before,
                          in.before_gates.size());
    const index windows = numbers / width / c.rate;
    std::vector<double> out, value, score, row(static_cast<std::size_t>(channels));
    for (index w = 0; w < windows; ++w) {
        double square = 0;
        for (index d = 0; d < channels; ++d) {
            value.clear(), score.clear();
            const auto add = [&](std::span<const double> values, std::span<const double> gates, index window,
                                 index column) {
                for (index t = 0; t < c.rate; ++t) {
                    const auto at = static_cast<std::size_t>((window * c.rate + t) * width + column);
                    value.push_back(values[at]);
                    score.push_back(gates[at] + in.bias[static_cast<std::size_t>(t * width + column)]);
                }
            };
            add(in.values, in.gates, w, joined ? channels + d : d);
            if (joined && w > 0)
                add(in.values, in.gates, w - 1, d);
            else if (before > 0)
                add(in.before_values, in.before_gates, 0, d);
            const double peak = *std::max_element(score.begin(), score.end());
            double sum = 0, weight = 0;
            for (std::size_t i = 0; i < score.size(); ++i) {
                const double e = std::exp(score[i] - peak);
                sum += e * value[i];
                weight += e;
            }
            row[static_cast<std::size_t>(d)] = sum / weight;
            square += (sum / weight) * (sum / weight);
        }
        const double by = 1 / std::sqrt(square / static_cast<double>(channels) + c.epsilon);
        for (std::size_t d = 0; d < row.size(); ++d) out.push_back(row[d] * by * in.weight[d]);
    }
    return out;
}

struct attend_config {
    index sliding_window = 128;          ///< tokens attended to individually, including the query's own
    index rate = 128;                    ///< tokens per compressed key; 0: there are none
    std::span<const double> sinks = {};  ///< a logit per head without a value; empty: none
    std::optional<double> scale = {};    ///< 1 / sqrt(channels) when not given
    /// The windows that an indexer chose, the same number for each query, [tokens, count]; negative: none.
    /// Empty: all complete windows.
    std::span<const std::int32_t> chosen = {};
};

/// Causal attention of every query over the tokens of its sliding window, the compressed keys of all complete
/// windows (or of those that an indexer chose) and the sink, in one softmax. A recent token in a complete
/// window counts twice. Keys are also the values: afterwards rotate `out` back with unrotate, on its slice
/// and at the queries' positions.
/// Shapes:   q and out [1, tokens, heads, channels], kv [1, tokens, 1, channels], compressed [1, windows, 1,
///           channels], all rotated; query n is token n.
/// Throws:   invalid_config on sizes that disagree, sliding_window < 1, rate < 0, or a chosen window that is
///           not complete at the query.
/// Cost:     as attend over tokens + windows + 1 keys with a bias.
/// Accuracy: as attend.
/// Source:   huggingface/transformers DeepseekV4Attention.
template <class T>
void attend(heads_view<const T> q, heads_view<const T> kv, heads_view<const T> compressed, heads_view<T> out,
            const attend_config& c) {
    using C = compute_t<T>;
    constexpr const char* who = "compressed_keys::attend";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "kv", kv);
    detail::require_readable(who, "compressed", compressed);
    detail::require_writable(who, "out", out);
    const index tokens = q.tokens(), windows = compressed.tokens(), heads = q.heads(),
                channels = q.channels();
    detail::require(q.batches() == 1 && kv.batches() == 1 && compressed.batches() == 1, who,
                    "batches must be 1", q.batches());
    detail::require_equal(who, "kv.tokens must be q's", tokens, kv.tokens());
    detail::require(kv.heads() == 1, who, "keys must have one head for all", kv.heads());
    detail::require(windows == 0 || compressed.heads() == 1, who, "keys must have one head for all",
                    compressed.heads());
    detail::require_equal(who, "kv.channels must be q's", channels, kv.channels());
    detail::require(windows == 0 || compressed.channels() == channels, who, "compressed.channels must be q's",
                    compressed.channels());
    detail::require(c.sliding_window >= 1, who, "sliding_window must be >= 1", c.sliding_window);
    detail::require(c.rate >= 0, who, "rate must be >= 0", c.rate);
    detail::require(c.sinks.empty() || static_cast<index>(c.sinks.size()) == heads, who,
                    "sinks must hold a number a head", c.sinks.size());
    const auto chosen = static_cast<index>(c.chosen.size());
    detail::require(chosen == 0 || (tokens > 0 && chosen % tokens == 0), who,
                    "chosen must hold as many windows for each query", chosen);
    const index of_query = chosen == 0 ? 0 : chosen / tokens;
    for (index i = 0; i < chosen; ++i) {
        const index w = c.chosen[static_cast<std::size_t>(i)];
        detail::require(w < 0 || (c.rate > 0 && w < windows && (w + 1) * c.rate <= i / of_query + 1), who,
                        "chosen windows must be closed for their query", w);
    }
    const index keys = tokens + windows + 1;
    std::vector<C> joined(static_cast<std::size_t>(
        detail::checked_product(who, "extents must be >= 0 and fit in memory", {keys, channels})));
    for (index j = 0; j < tokens + windows; ++j) {
        const T* const from = j < tokens ? kv.at(0, j, 0) : compressed.at(0, j - tokens, 0);
        detail::read_row(from, joined.data() + j * channels, channels);
    }
    constexpr C hidden = -std::numeric_limits<C>::infinity();
    std::vector<C> bias(static_cast<std::size_t>(detail::checked_product(
                            who, "extents must be >= 0 and fit in memory", {heads, tokens, keys})),
                        hidden);
    for (index h = 0; h < heads; ++h)
        for (index n = 0; n < tokens; ++n) {
            C* const row = bias.data() + (h * tokens + n) * keys;
            for (index j = std::max<index>(0, n - c.sliding_window + 1); j <= n; ++j) row[j] = 0;
            for (index i = 0; i < of_query; ++i)
                if (const index w = c.chosen[static_cast<std::size_t>(n * of_query + i)]; w >= 0)
                    row[tokens + w] = 0;
            for (index w = 0; chosen == 0 && w < windows && c.rate > 0 && (w + 1) * c.rate <= n + 1; ++w)
                row[tokens + w] = 0;
            if (!c.sinks.empty()) row[keys - 1] = static_cast<C>(c.sinks[static_cast<std::size_t>(h)]);
        }
    const heads_view<C> all(joined.data(), keys, 1, channels);
    ropewalk::attend(q, all, all, out, {.scale = c.scale, .bias = bias});
}

}  // namespace ROPEWALK_NAMESPACE::compressed_keys
