// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// HiRoPE's hierarchical positions: the token in its function, the function in its file, and so on.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// Where the count of a level starts. local: at the start of the enclosing unit of the next level up (for the
/// top level, at the start of the sequence). global: for every level at the start of the sequence.
enum class counting : std::uint8_t { local, global };

/// Positions of nested units that arrive one after the other: axis 0 counts tokens, axis 1 units (functions),
/// axis 2 units of units (files), and so on. Positions of past tokens never change, so their keys stay valid
/// in the cache.
/// Throws:   invalid_config on levels < 2 or a level that does not exist.
/// Cost:     O(levels) for each token.
/// Source:   HiRoPE, Zhang et al. 2024 (its two levels; further levels follow the same rule).
///
///     positions::hierarchy_counter at;      // two levels: (token in its function, function)
///     at.begin_unit();                      // the parser saw a function start
///     auto [token, unit] = std::pair(at.next()[0], at.position()[1]);
class hierarchy_counter {
  public:
    explicit hierarchy_counter(index levels = 2, counting mode = counting::local) : mode_(mode) {
        detail::require(levels >= 2, "hierarchy_counter", "levels must be >= 2", levels);
        next_.resize(static_cast<std::size_t>(levels));
        last_.resize(static_cast<std::size_t>(levels));
    }

    /// The next token starts a unit of this level (1: function, 2: file, ...). Before the first token it
    /// changes nothing, because the sequence itself starts a unit of every level. A unit that is started
    /// twice, or together with the enclosing unit, starts once.
    /// Throws: invalid_config on a level that does not exist.
    void begin_unit(index level = 1) {
        detail::require(level >= 1 && level < levels(), "hierarchy_counter::begin_unit",
                        "level must be >= 1 and below levels", level);
        if (tokens_ > 0) begun_ = std::max(begun_, level);
    }

    /// The position of the next token: one number for each level.
    std::span<const double> next() {
        if (begun_ > 0) {
            next_[at(begun_)] += 1;
            for (index below = 1; below < begun_; ++below)
                next_[at(below)] = mode_ == counting::local ? 0 : next_[at(below)] + 1;
            if (mode_ == counting::local) next_[0] = 0;
            begun_ = 0;
        }
        last_ = next_;
        next_[0] += 1;
        ++tokens_;
        return last_;
    }
    /// The position that next() returned last.
    std::span<const double> position() const noexcept { return last_; }
    /// Levels of the hierarchy.
    index levels() const noexcept { return static_cast<index>(next_.size()); }
    index tokens() const noexcept { return tokens_; }

  private:
    static std::size_t at(index level) noexcept { return static_cast<std::size_t>(level); }

    counting mode_;
    index tokens_ = 0;
    index begun_ = 0;  // the highest level that starts with the next token
    std::vector<double> next_, last_;
};

struct hierarchy_config {
    index tokens = 0;
    /// starts[l]: first tokens of the units of level l + 1, non-decreasing. A start at 0, a second start at
    /// the same token and a start one past the end change nothing.
    std::vector<std::vector<index>> starts = {};
    counting mode = counting::local;  ///< where the counts of the levels start
};

/// The same for a sequence whose units are known.
/// Shapes:   [tokens, starts.size() + 1], axis 0 is the token level.
/// Throws:   invalid_config on tokens < 0, no level of starts, or starts that are negative or decrease.
/// Source:   HiRoPE, Zhang et al. 2024.
inline position_ids hierarchy(const hierarchy_config& config) {
    constexpr const char* who = "hierarchy";
    detail::require(config.tokens >= 0, who, "tokens must be >= 0", config.tokens);
    detail::require(!config.starts.empty(), who, "starts must hold one list a level", config.starts.size());
    for (const auto& starts : config.starts)
        for (std::size_t u = 0; u < starts.size(); ++u) {
            detail::require(starts[u] >= 0, who, "unit starts must be >= 0", starts[u]);
            detail::require(u == 0 || starts[u] >= starts[u - 1], who, "unit starts must be sorted",
                            starts[u]);
        }
    const auto levels = static_cast<index>(config.starts.size()) + 1;
    hierarchy_counter counter(levels, config.mode);
    std::vector<std::size_t> seen(config.starts.size());
    listed_run run;
    for (index n = 0; n < config.tokens; ++n) {
        for (std::size_t l = 0; l < seen.size(); ++l)
            for (; seen[l] < config.starts[l].size() && config.starts[l][seen[l]] <= n; ++seen[l])
                counter.begin_unit(static_cast<index>(l) + 1);
        const auto position = counter.next();
        run.values.insert(run.values.end(), position.begin(), position.end());
    }
    position_ids ids(levels);
    ids.append(std::move(run));
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::positions
