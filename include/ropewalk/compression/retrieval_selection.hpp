// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The selection of tokens in a decode step of retrieval_cache, and its trace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/compression/score_selection.hpp>

namespace ROPEWALK_NAMESPACE {

/// An optional trace of a decode step. Empty spans are not written.
/// Shapes:   L cached tokens of the longest sequence; approximate_scores and top [batches, heads, L],
///           attended [batches, kv heads, L]; 0 past the end of a shorter one.
template <class T>
struct retrieval_trace {
    std::span<T> approximate_scores = {};   ///< of every token, including sinks and window
    std::span<std::uint8_t> top = {};       ///< 1 where a query head selected the token
    std::span<std::uint8_t> attended = {};  ///< 1 where the token was read for a kv head
};

namespace detail {

/// The codeword numbers of one kv head's tokens in one sequence.
struct retrieval_state {
    std::vector<std::uint16_t> labels;
    std::vector<std::int32_t> counts;  ///< tokens per codeword
};
/// One kv head of one sequence in a decode step.
struct retrieval_item {
    retrieval_state& state;
    index tokens, sinks_end, window_begin;
    index top;   ///< K
    index line;  ///< row of the kv head in the trace
};

/// The memory of one thread in a decode step, and counts of what it read.
template <class T>
class retrieval_scratch {
  public:
    retrieval_scratch() = default;
    retrieval_scratch(index group, index codewords, index channels, index value_channels)
        : attention({.heads = group, .key_channels = channels, .value_channels = value_channels}),
          attended(1),
          group_(group),
          keys_(sized(group * codewords)),
          actions_(sized(codewords)),
          thresholds_(sized(group)),
          left_(sized(group)) {
        near_rows.resize(sized(group * channels));
        far_rows.resize(sized(group * channels));
        scores.resize(sized(group * codewords));
    }

    row_attention<T> attention{{}};
    aligned_vector<T> near_rows, far_rows;  ///< [group, channels]: the queries at their two positions
    aligned_vector<T> scores;               ///< [group, codewords]
    aligned_vector<T> cos_sin, rotated;     ///< for keys that are rotated as they are read
    std::vector<std::int32_t> attended;     ///< the tokens to read, ascending
    index rows_read = 0, bytes_read = 0;

    /// Fills `attended` with the tokens of one kv head, ascending, from scores; returns their number.
    index select(const retrieval_item& of) noexcept {
        const retrieval_state& state = of.state;
        const index words = codewords(), heads = group_, wanted = of.top, tokens = of.tokens;
        std::int32_t* const list = attended.data();
        const index first = of.sinks_end, last = of.window_begin;
        if (wanted >= last - first) {
            for (index n = 0; n < tokens; ++n) list[n] = static_cast<std::int32_t>(n);
            return tokens;
        }
        index rows = 0;
        for (; rows < first; ++rows) list[rows] = static_cast<std::int32_t>(rows);
        if (wanted > 0) {
            count_protected(of, -1);
            std::fill(actions_.begin(), actions_.end(), std::uint8_t{0});
            for (index g = 0; g < heads; ++g) {
                order* const keys = keys_.data() + g * words;
                for (index c = 0; c < words; ++c) keys[c] = order_key(scores.data()[g * words + c]);
                const auto threshold = find_threshold(keys, state.counts.data(), words, wanted);
                for (index c = 0; c < words; ++c)
                    actions_.data()[c] =
                        static_cast<std::uint8_t>(actions_.data()[c] | (keys[c] > threshold.key    ? taken
                                                                        : keys[c] == threshold.key ? tied
                                                                                                   : 0));
                thresholds_.data()[g] = threshold;
                left_.data()[g] = threshold.equal;
            }
            count_protected(of, 1);
            for (index n = first; n < last; ++n) {
                const std::uint16_t label = state.labels.data()[n];
                std::uint8_t action = actions_.data()[label];
                if (action & tied)
                    for (index g = 0; g < heads; ++g)
                        if (keys_.data()[g * words + label] == thresholds_.data()[g].key &&
                            left_.data()[g] > 0) {
                            --left_.data()[g];
                            action |= taken;
                        }
                list[rows] = static_cast<std::int32_t>(n);
                rows += action & taken;
            }
        }
        for (index n = last; n < tokens; ++n) list[rows++] = static_cast<std::int32_t>(n);
        return rows;
    }

    void fill_trace(const retrieval_item& of, index rows, index width,
                    const retrieval_trace<T>& trace) const noexcept {
        const retrieval_state& state = of.state;
        const index words = codewords(), first = of.sinks_end, last = of.window_begin;
        const index tokens = of.tokens;
        if (!trace.attended.empty()) {
            std::uint8_t* const line = trace.attended.data() + of.line * width;
            std::fill_n(line, width, std::uint8_t{0});
            for (index j = 0; j < rows; ++j) line[attended[static_cast<std::size_t>(j)]] = 1;
        }
        for (index g = 0; g < group_; ++g) {
            const index h = of.line * group_ + g;
            if (!trace.approximate_scores.empty()) {
                T* const line = trace.approximate_scores.data() + h * width;
                for (index n = 0; n < tokens; ++n)
                    line[n] = scores.data()[g * words + state.labels.data()[n]];
                std::fill(line + tokens, line + width, T(0));
            }
            if (trace.top.empty()) continue;
            std::uint8_t* const line = trace.top.data() + h * width;
            std::fill_n(line, width, std::uint8_t{0});
            index left = of.top;
            if (left >= last - first) {  // all that can be selected; protected tokens are at -infinity
                std::fill(line + first, line + last, std::uint8_t{1});
                left -= last - first;
                for (index n = 0; n < tokens && left > 0; ++n)
                    if (line[n] == 0) line[n] = 1, --left;
                continue;
            }
            if (left == 0) continue;
            const auto threshold = thresholds_.data()[g];
            left = threshold.equal;
            for (index n = first; n < last; ++n) {
                const order key = keys_.data()[g * words + state.labels.data()[n]];
                if (key > threshold.key) line[n] = 1;
                if (key == threshold.key && left > 0) line[n] = 1, --left;
            }
        }
    }

  private:
    using order = decltype(order_key(T{}));
    static constexpr std::uint8_t taken = 1, tied = 2;

    static std::size_t sized(index n) noexcept { return static_cast<std::size_t>(n); }
    index codewords() const noexcept { return static_cast<index>(actions_.size()); }
    /// Removes the protected tokens from the counts of their codewords (by = -1), or adds them again (1).
    static void count_protected(const retrieval_item& of, std::int32_t by) noexcept {
        auto& [labels, counts] = of.state;
        for (index n = 0; n < of.sinks_end; ++n) counts[labels[sized(n)]] += by;
        for (index n = of.window_begin; n < of.tokens; ++n) counts[labels[sized(n)]] += by;
    }

    index group_ = 0;
    std::vector<order> keys_;
    std::vector<std::uint8_t> actions_;
    std::vector<score_threshold<order>> thresholds_;
    std::vector<index> left_;
};

}  // namespace detail

}  // namespace ROPEWALK_NAMESPACE
