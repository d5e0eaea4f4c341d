// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Lower bounds on the RoPE base for a context length (Men et al. 2024), and the search for the least base.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// What a pair turns by between tokens `offset` apart.
inline double angle_at(const spectrum& s, std::span<const double> offset, index head, index pair) {
    double angle = 0;
    for (index a = 0; a < s.axes(); ++a)
        angle += offset[static_cast<std::size_t>(a)] * s.omega(head, a, pair);
    return angle;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::analysis {

/// B(distance) = sum over pairs of cos(distance * omega): how much higher a key similar to the query scores
/// at that distance than a random key, in units of 2 sigma^2. A base supports a context length if B >= 0 at
/// every distance below it.
/// Requires: a spectrum with one axis; only its first head is used.
/// Accuracy: 1e-12 * pairs for distance * omega up to 1e3, beyond that, it grows with the rounding of the
///           angle.
/// Source:   Base of RoPE Bounds Context Length, Men et al. 2024, eq. 9.
inline double discrimination(const spectrum& s, double distance) {
    double sum = 0;
    for (index i = 0; i < s.pairs(); ++i) sum += std::cos(distance * s.omega(i));
    return sum;
}

/// The same for tokens that differ by `offset` on the axes (time, row, column): how well a scheme
/// distinguishes a key similar to the query from a random one across frames and across an image. A pair with
/// frequency 0 on an axis (HoPE's time) adds 1 at any distance along it.
/// Shapes:   offset [axes].
/// Throws:   invalid_config when offset does not have one number per axis, or on a head that does not exist.
/// Accuracy: as above.
/// Source:   as above, with the angles of HoPE, Li et al. 2025, and VideoRoPE, Wei et al. 2025.
inline double discrimination(const spectrum& s, std::span<const double> offset, index head = 0) {
    constexpr const char* who = "discrimination";
    detail::require_equal(who, "offset must hold one number an axis", s.axes(), offset.size());
    detail::require(head >= 0 && head < s.heads(), who, "head must be one of the spectrum's", head);
    double sum = 0;
    for (index i = 0; i < s.pairs(); ++i) sum += std::cos(detail::angle_at(s, offset, head, i));
    return sum;
}

}  // namespace ROPEWALK_NAMESPACE::analysis

namespace ROPEWALK_NAMESPACE::detail {

inline double discrimination_at(std::span<const double> omega, double distance) {
    double sum = 0;
    for (double w : omega) sum += std::cos(distance * w);
    return sum;
}

/// The first m in [begin, end) with B(m) < 0, or end. It works in blocks of 512 distances, with eight
/// recurrences per pair that advance by eight positions per step: cos((n+1) x) = 2 cos(x) cos(n x) -
/// cos((n-1) x). They start from exact cosines in every block (64 steps lose less than 1e-11), and values
/// near zero are recomputed by a plain sum.
inline std::int64_t first_negative_in(std::span<const double> omega, std::int64_t begin, std::int64_t end) {
    constexpr int lanes = 8;
    constexpr int block = 512;
    constexpr double doubt = 1e-7;
    std::array<double, block> sums;
    for (std::int64_t start = begin; start < end; start += block) {
        sums.fill(0);
        for (const double w : omega) {
            double now[lanes];
            double next[lanes];
            for (int l = 0; l < lanes; ++l) {
                now[l] = std::cos(static_cast<double>(start + l) * w);
                next[l] = std::cos(static_cast<double>(start + l + lanes) * w);
            }
            const double twice = 2 * std::cos(lanes * w);
            for (std::size_t m = 0; m < block; m += lanes)
                for (std::size_t l = 0; l < lanes; ++l) {
                    sums[m + l] += now[l];
                    const double after = twice * next[l] - now[l];
                    now[l] = next[l];
                    next[l] = after;
                }
        }
        const std::int64_t count = std::min<std::int64_t>(block, end - start);
        for (std::int64_t m = 0; m < count; ++m) {
            const double sum = sums[static_cast<std::size_t>(m)];
            if (sum >= doubt) continue;
            if (sum < -doubt || discrimination_at(omega, static_cast<double>(start + m)) < 0)
                return start + m;
        }
    }
    return end;
}

/// The distances that rejected earlier candidates: most later candidates fail near one of them.
class witnesses {
  public:
    /// Whether B < 0 near a witness, below `length`. It looks close to each witness first, which decides most
    /// candidates, then further around each, since the distance moves with the base.
    bool reject(std::span<const double> omega, std::int64_t length) {
        for (std::size_t w = 0; w < places_.size(); ++w)
            for (std::int64_t m = std::max<std::int64_t>(places_[w] - 1, 0);
                 m <= std::min(places_[w] + 1, length - 1); ++m)
                if (discrimination_at(omega, static_cast<double>(m)) < 0) return prefer(w, m);
        for (std::size_t w = 0; w < places_.size(); ++w) {
            const std::int64_t begin = std::max<std::int64_t>(places_[w] - reach, 0);
            const std::int64_t end = std::min(places_[w] + reach, length);
            const std::int64_t m = first_negative_in(omega, begin, end);
            if (m < end) return prefer(w, m);
        }
        return false;
    }
    void remember(std::int64_t place) {
        places_.insert(places_.begin(), place);
        if (places_.size() > 24) places_.pop_back();
    }

  private:
    static constexpr std::int64_t reach = 256;

    bool prefer(std::size_t w, std::int64_t place) {
        places_[w] = place;
        std::rotate(places_.begin(), places_.begin() + static_cast<index>(w),
                    places_.begin() + static_cast<index>(w) + 1);
        return true;
    }
    std::vector<std::int64_t> places_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::analysis {

/// The first whole distance in [0, cap) at which B < 0; cap when there is none.
/// Throws:   invalid_config on several axes or cap < 0.
/// Cost:     about a nanosecond per pair and distance, up to the result.
/// Source:   Base of RoPE Bounds Context Length, Men et al. 2024.
inline std::int64_t first_negative(const spectrum& s, std::int64_t cap) {
    detail::require(s.axes() == 1, "first_negative", "spectrum must have one axis", s.axes());
    detail::require(cap >= 0, "first_negative", "cap must be >= 0", cap);
    const auto omega = s.omegas();
    return detail::first_negative_in(omega, 0, cap);
}

/// The first whole m in [0, cap) at which B < 0 for tokens m * step apart; cap when there is none. A step of
/// (1, 0, 0) asks how many frames a scheme carries at one place of the picture, (1, 1, 1) how much text.
/// Shapes:   step [axes].
/// Throws:   invalid_config when step is not one finite number an axis, on cap < 0 or a head that is not
///           there.
/// Cost:     as above.
/// Source:   as above, with the angles of HoPE, Li et al. 2025, and VideoRoPE, Wei et al. 2025.
inline std::int64_t first_negative(const spectrum& s, std::span<const double> step, std::int64_t cap,
                                   index head = 0) {
    constexpr const char* who = "first_negative";
    detail::require_equal(who, "step must hold one number an axis", s.axes(), step.size());
    for (const double by : step) detail::require(std::isfinite(by), who, "step must be finite", by);
    detail::require(cap >= 0, who, "cap must be >= 0", cap);
    detail::require(head >= 0 && head < s.heads(), who, "head must be one of the spectrum's", head);
    std::vector<double> omega;
    for (index i = 0; i < s.pairs(); ++i) omega.push_back(detail::angle_at(s, step, head, i));
    return detail::first_negative_in(omega, 0, cap);
}

struct min_base_config {
    index head_dim = 128;
    std::int64_t context_length = 0;
    int rounds = 5;          ///< each round adds a digit
    double first_bound = 0;  ///< the first candidate; 0 = 1000 * context_length
};

/// The smallest base found by the published grid refinement for which B >= 0 at every distance below
/// context_length: round k tries j / 10^k of the last bound, j = 1, 2, ... 10^k, and takes the first that
/// satisfies the condition. The condition is not monotone in the base, so bisection would not work. Returns
/// nothing when even first_bound does not satisfy it.
/// Throws:   invalid_config on an odd head_dim, context_length < 1, rounds outside [1, 6].
/// Cost:     seconds on one core for 131072 tokens and 5 rounds.
/// Source:   Base of RoPE Bounds Context Length, Men et al. 2024, section 4; its recomputation in kexue.fm
///           archives 10122.
inline std::optional<double> min_base(const min_base_config& c) {
    detail::require_ladder("min_base", c.head_dim, 2.0);
    detail::require(c.context_length >= 1, "min_base", "context_length must be >= 1", c.context_length);
    detail::require(c.rounds >= 1 && c.rounds <= 6, "min_base", "rounds must be in [1, 6]", c.rounds);
    detail::require(std::isfinite(c.first_bound) && c.first_bound >= 0, "min_base",
                    "first_bound must be >= 0 (0: 1000 * context_length)", c.first_bound);
    double bound = c.first_bound != 0 ? c.first_bound : 1000.0 * static_cast<double>(c.context_length);
    bool found = false;
    detail::witnesses seen;
    for (int k = 1; k <= c.rounds; ++k) {
        const auto steps = static_cast<std::int64_t>(std::lround(std::pow(10.0, k)));
        for (std::int64_t j = 1; j <= steps; ++j) {
            const double candidate = static_cast<double>(j) / static_cast<double>(steps) * bound;
            const auto omega = detail::ladder(c.head_dim, candidate);
            if (seen.reject(omega, c.context_length)) continue;
            const std::int64_t place = detail::first_negative_in(omega, 0, c.context_length);
            if (place < c.context_length) {
                seen.remember(place);
                continue;
            }
            bound = candidate;
            found = true;
            break;
        }
        if (!found) return std::nullopt;
    }
    return bound;
}

/// The curve that the paper fits to its least bases for heads of 128 channels: 0.0424 L^1.628. For a first
/// guess; first_negative decides whether a base supports a context length.
/// Throws:   invalid_config unless context_length is finite and > 0.
/// Accuracy: within a factor of 1.9 of the paper's own table up to 131072 tokens.
/// Source:   Base of RoPE Bounds Context Length, Men et al. 2024, figure of the lower bound.
inline double fitted_base(double context_length) {
    detail::require_factor("fitted_base", "context_length must be finite and > 0", context_length);
    return 0.0424 * std::pow(context_length, 1.628);
}

/// The least base in the limit of infinitely wide heads, L / 0.6165: B then becomes a difference of cosine
/// integrals, whose first zero is at 0.6165. Heads of finite width need a larger base.
/// Throws:   invalid_config unless context_length is finite and > 0.
/// Source:   derived from Base of RoPE Bounds Context Length, Men et al. 2024, eq. 9.
inline double wide_head_base(double context_length) {
    detail::require_factor("wide_head_base", "context_length must be finite and > 0", context_length);
    return context_length / 0.6165;
}

/// One row of the table of least bases for heads of 128 channels.
struct published_bound {
    std::int64_t context_length;
    double paper;       ///< as printed, two digits, found on the authors' grid
    double recomputed;  ///< as printed in kexue.fm archives 10122, two digits
    double ours;        ///< min_base with 5 rounds (4 from 524288 tokens on); the tests reproduce it
};

/// The published least bases and this library's. The paper's row is rounded and grid-dependent: some of its
/// entries do not satisfy the bound (3.1e5 fails at distance 12223 of 16384), so it is not a reference for a
/// search.
/// Source: Base of RoPE Bounds Context Length, Men et al. 2024, table 2; kexue.fm archives 10122.
inline std::span<const published_bound> published_base_bounds() noexcept {
    static constexpr published_bound table[] = {
        {1024, 4.3e3, 4.3e3, 4293.4536},  {2048, 1.6e4, 1.2e4, 11587.352},   {4096, 2.7e4, 2.7e4, 26952.563},
        {8192, 8.4e4, 8.4e4, 83764.242},  {16384, 3.1e5, 2.3e5, 231644.54},  {32768, 6.4e5, 6.3e5, 629984.11},
        {65536, 2.1e6, 2.1e6, 2090193.0}, {131072, 7.8e6, 4.9e6, 4869124.9}, {262144, 3.6e7, 2.4e7, 2.366e7},
        {524288, 6.4e7, 5.8e7, 6.269e7},  {1048576, 5.1e8, 6.5e7, 6.543e7},
    };
    return table;
}

}  // namespace ROPEWALK_NAMESPACE::analysis
