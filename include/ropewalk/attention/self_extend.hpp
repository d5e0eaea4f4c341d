// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Self-Extend: exact positions for near keys and grouped positions for far keys, over attend_banded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

/// The value of window / group where it is not a whole number: the quotient (the released prefill), or
/// rounded down (the paper, and the released decode, which then differs from the prefill by up to 1 - 1 /
/// group positions).
enum class offset_division : std::uint8_t { exact, floor };

struct self_extend_config {
    index group = 8;                        ///< far positions are divided by it
    index window = 1024;                    ///< keys closer than this keep their positions
    std::optional<double> scale_base = {};  ///< trained length; later queries are scaled by a log ratio
    offset_division division = offset_division::exact;  ///< where the group does not divide the window
};

/// Self-Extend: keys within `window` have their own distance. For all other keys, positions are divided by
/// `group` and shifted so that distances are continuous at the border where the group divides the window. The
/// cache holds unrotated keys; they are rotated in both ways, and attention::attend_banded combines the two.
/// Throws:   invalid_config on group or window < 1, or scale_base <= 1.
/// Source:   LLM Maybe LongLM, arXiv 2401.01325; datamllab/LongLM self_extend_patch/Llama.py.
///
///     const self_extend extend({.group = 4, .window = 512});
///     // near rows: positions as they are; far rows: far_queries(count, first), far_keys(count)
///     attend_banded(causal_mask{}, {near_q, near_k, far_q, far_k}, {.window = 512}, v, out, workspace);
class self_extend {
  public:
    explicit self_extend(const self_extend_config& config) : config_(config) {
        constexpr const char* who = "self_extend";
        detail::require(config.group >= 1, who, "group must be >= 1", config.group);
        detail::require(config.window >= 1, who, "window must be >= 1", config.window);
        const double base = config.scale_base.value_or(2);
        detail::require(std::isfinite(base) && base > 1, who, "scale_base must be finite and > 1", base);
    }

    /// The config it was made from.
    const self_extend_config& config() const noexcept { return config_; }

    /// The offset between near and far positions: window - window / group.
    double offset() const noexcept {
        const double share = static_cast<double>(config_.window) / static_cast<double>(config_.group);
        return static_cast<double>(config_.window) -
               (config_.division == offset_division::floor ? std::floor(share) : share);
    }
    /// The position of a query for far keys. Fractional where the group does not divide the window.
    double far_query(std::int64_t token) const noexcept {
        return static_cast<double>(token / config_.group) + offset();
    }
    /// The position of a far key.
    double far_key(std::int64_t token) const noexcept { return static_cast<double>(token / config_.group); }
    /// Positions of tokens [first, first + count).
    position_ids far_queries(index count, std::int64_t first = 0) const {
        return listed(count, [&](index n) { return far_query(first + n); });
    }
    /// The same for far keys.
    position_ids far_keys(index count, std::int64_t first = 0) const {
        return listed(count, [&](index n) { return far_key(first + n); });
    }
    /// The rotary distance of a query at token i and a key at token j <= i.
    double distance(std::int64_t i, std::int64_t j) const noexcept {
        return i - j < config_.window ? static_cast<double>(i - j) : far_query(i) - far_key(j);
    }

    /// The factor on the query at a token, before its rotation: ln(token + 1) / ln(scale_base), at least 1.
    double query_scale(std::int64_t token) const noexcept {
        if (!config_.scale_base) return 1;
        return std::max(1.0, std::log(static_cast<double>(token) + 1) / std::log(*config_.scale_base));
    }
    /// Multiplies the queries of tokens [first, first + x.tokens()) by query_scale, in place.
    /// Returns: as rotate.
    template <class T>
    bool scale_queries(heads_view<T> x, std::int64_t first = 0) const noexcept {
        if (!detail::fits("self_extend::scale_queries", detail::fit_writable(x))) return false;
        if (!config_.scale_base) return true;
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n) {
                const double by = query_scale(first + n);
                for (index h = 0; h < x.heads(); ++h) {
                    auto* const head = reinterpret_cast<stored_t<T>*>(x.at(b, n, h));
                    for (index c = 0; c < x.channels(); ++c)
                        head[c] = static_cast<stored_t<T>>(static_cast<compute_t<T>>(
                            by * static_cast<double>(static_cast<compute_t<T>>(head[c]))));
                }
            }
        return true;
    }
    /// The longest sequence whose distances stay below `trained`: group (trained - window) + window.
    std::int64_t longest(std::int64_t trained) const noexcept {
        return config_.group * (trained - config_.window) + config_.window;
    }

  private:
    template <class F>
    static position_ids listed(index count, F f) {
        detail::require(count >= 0, "self_extend", "count must be >= 0", count);
        std::vector<double> at(static_cast<std::size_t>(count));
        for (index n = 0; n < count; ++n) at[static_cast<std::size_t>(n)] = f(n);
        return position_ids::from(at);
    }
    self_extend_config config_;
};

}  // namespace ROPEWALK_NAMESPACE
