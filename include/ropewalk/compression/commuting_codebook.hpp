// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// CommVQ: residual vector quantisation of keys with codebooks that commute with RoPE.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

/// CommVQ: residual codebooks of unrotated keys. Their centres c_A + i c_B, over complex pairs, commute with
/// the rotation, so a query is multiplied with each small centre once, and a token costs table look-ups and
/// one rotation per pair.
/// Source:   CommVQ, arXiv 2506.18879; UMass-Embodied-AGI/CommVQ.
namespace ROPEWALK_NAMESPACE::commvq {

/// The small centres of all rounds.
struct codebook {
    index rounds = 0;               ///< each encodes the residual of those before it
    index centres = 0;              ///< n per round; a code A n + B selects two of them
    index pairs = 0;                ///< half_split pairs of a key
    std::span<const double> theta;  ///< [rounds, centres, pairs, 2]: x and y
};

namespace detail_commvq {

inline void require_valid(const char* who, const codebook& c) {
    detail::require(c.rounds >= 1, who, "rounds must be >= 1", c.rounds);
    detail::require(c.centres >= 1 && c.centres <= 4096, who, "centres must be in 1 .. 4096", c.centres);
    detail::require(c.pairs >= 1, who, "pairs must be >= 1", c.pairs);
    detail::require(
        static_cast<index>(c.theta.size()) ==
            detail::checked_product(who, "codebook must fit in memory", {c.rounds, c.centres, c.pairs, 2}),
        who, "theta must hold rounds * centres * pairs * 2 numbers", c.theta.size());
    for (const double v : c.theta) detail::require(std::isfinite(v), who, "theta must be finite", v);
}
inline const double* centre_at(const codebook& c, index round, index centre, index pair) noexcept {
    return c.theta.data() + ((round * c.centres + centre) * c.pairs + pair) * 2;
}

}  // namespace detail_commvq

/// The large centres: (X_A - Y_B, Y_A + X_B).
/// Shapes:   [rounds, centres^2, pairs, 2].
/// Throws:   invalid_config on sizes that disagree.
/// Source:   UMass-Embodied-AGI/CommVQ training/quantize_key_cache.py.
inline std::vector<double> expand(const codebook& c) {
    detail_commvq::require_valid("commvq::expand", c);
    std::vector<double> out;
    for (index r = 0; r < c.rounds; ++r)
        for (index a = 0; a < c.centres; ++a)
            for (index b = 0; b < c.centres; ++b)
                for (index j = 0; j < c.pairs; ++j) {
                    const double *p = detail_commvq::centre_at(c, r, a, j),
                                 *q = detail_commvq::centre_at(c, r, b, j);
                    out.push_back(p[0] - q[1]);
                    out.push_back(p[1] + q[0]);
                }
    return out;
}

/// Encoded keys.
struct coded_keys {
    std::vector<double> scale;  ///< norms of the keys, [tokens]
    std::vector<index> codes;   ///< [rounds, tokens]
};

/// Encodes keys: each round takes the large centre nearest to the residual of k / |k|, the first of equal
/// ones.
/// Shapes:   k [tokens, 2 * pairs], half_split, before the rotation.
/// Throws:   invalid_config on sizes that disagree or keys that are not finite.
/// Cost:     tokens * rounds * centres^2 * pairs.
/// Source:   UMass-Embodied-AGI/CommVQ training/quantize_key_cache.py.
inline coded_keys encode(const codebook& c, std::span<const double> k) {
    constexpr const char* who = "commvq::encode";
    const auto large = expand(c);
    const auto numbers = static_cast<index>(k.size());
    detail::require(numbers % (2 * c.pairs) == 0, who, "k must hold tokens * 2 * pairs numbers", numbers);
    for (const double v : k) detail::require(std::isfinite(v), who, "keys must be finite", v);
    const index tokens = numbers / (2 * c.pairs), count = c.centres * c.centres;
    coded_keys out{std::vector<double>(static_cast<std::size_t>(tokens)),
                   std::vector<index>(static_cast<std::size_t>(c.rounds * tokens))};
    std::vector<double> left(static_cast<std::size_t>(2 * c.pairs));
    for (index n = 0; n < tokens; ++n) {
        const double* const key = k.data() + n * 2 * c.pairs;
        double length = 0;
        for (index i = 0; i < 2 * c.pairs; ++i) length += key[i] * key[i];
        length = std::sqrt(length);
        out.scale[static_cast<std::size_t>(n)] = length;
        for (index j = 0; j < c.pairs; ++j) {
            left[static_cast<std::size_t>(2 * j)] = length > 0 ? key[j] / length : 0;
            left[static_cast<std::size_t>(2 * j + 1)] = length > 0 ? key[j + c.pairs] / length : 0;
        }
        for (index r = 0; r < c.rounds; ++r) {
            index best = 0;
            double least = std::numeric_limits<double>::infinity();
            const double* const round = large.data() + r * count * 2 * c.pairs;
            for (index code = 0; code < count; ++code) {
                double distance = 0;
                for (index i = 0; i < 2 * c.pairs; ++i) {
                    const double d = left[static_cast<std::size_t>(i)] - round[code * 2 * c.pairs + i];
                    distance += d * d;
                }
                if (distance < least) least = distance, best = code;
            }
            out.codes[static_cast<std::size_t>(r * tokens + n)] = best;
            for (index i = 0; i < 2 * c.pairs; ++i)
                left[static_cast<std::size_t>(i)] -= round[best * 2 * c.pairs + i];
        }
    }
    return out;
}

/// The keys of the codes, before the rotation.
/// Shapes:   [tokens, 2 * pairs], half_split.
/// Throws:   invalid_config on sizes that disagree or a code that does not exist.
inline std::vector<double> decode(const codebook& c, const coded_keys& keys) {
    constexpr const char* who = "commvq::decode";
    const auto large = expand(c);
    const auto tokens = static_cast<index>(keys.scale.size());
    const index count = c.centres * c.centres;
    detail::require_equal(who, "codes must hold rounds * tokens numbers", c.rounds * tokens,
                          keys.codes.size());
    for (const index code : keys.codes)
        detail::require(code >= 0 && code < count, who, "codes must be below centres^2", code);
    std::vector<double> out(static_cast<std::size_t>(tokens * 2 * c.pairs));
    for (index n = 0; n < tokens; ++n)
        for (index j = 0; j < c.pairs; ++j)
            for (index part = 0; part < 2; ++part) {
                double sum = 0;
                for (index r = 0; r < c.rounds; ++r)
                    sum += large[static_cast<std::size_t>(
                        ((r * count + keys.codes[static_cast<std::size_t>(r * tokens + n)]) * c.pairs + j) *
                            2 +
                        part)];
                out[static_cast<std::size_t>((n * 2 + part) * c.pairs + j)] =
                    keys.scale[static_cast<std::size_t>(n)] * sum;
            }
    return out;
}

/// Scores of one rotated query against rotated keys without decoding them: conj(q) is multiplied with each
/// small centre once; a token then adds t_A + i t_B over its rounds and rotates the sum by its position.
/// Shapes:   q [2 * pairs], half_split, rotated; positions [tokens]; the result [tokens], unscaled.
/// Throws:   invalid_config on sizes that disagree, or a spectrum of several heads or axes.
/// Cost:     rounds * centres * pairs multiply-adds once, then rounds * pairs additions and one sine and
///           cosine per pair and token.
/// Source:   UMass-Embodied-AGI/CommVQ commvq/triton_kernels.py.
inline std::vector<double> make_scores(const codebook& c, const coded_keys& keys, std::span<const double> q,
                                       const spectrum& s, std::span<const double> positions) {
    constexpr const char* who = "commvq::make_scores";
    detail_commvq::require_valid(who, c);
    const auto tokens = static_cast<index>(keys.scale.size());
    detail::require(static_cast<index>(q.size()) == 2 * c.pairs, who, "q must hold 2 * pairs numbers",
                    q.size());
    detail::require(s.pairs() == c.pairs && s.heads() == 1 && s.axes() == 1, who,
                    "spectrum must have the keys' pairs", s.pairs());
    detail::require_equal(who, "positions must be one a token", tokens, positions.size());
    detail::require_equal(who, "codes must hold rounds * tokens numbers", c.rounds * tokens,
                          keys.codes.size());
    for (const index code : keys.codes)
        detail::require(code >= 0 && code < c.centres * c.centres, who, "codes must be below centres^2",
                        code);
    std::vector<double> met(c.theta.size());
    for (index k = 0; k < c.rounds * c.centres; ++k)
        for (index j = 0; j < c.pairs; ++j) {
            const auto at = static_cast<std::size_t>((k * c.pairs + j) * 2);
            const double x = q[static_cast<std::size_t>(j)], y = q[static_cast<std::size_t>(j + c.pairs)];
            met[at] = x * c.theta[at] + y * c.theta[at + 1];
            met[at + 1] = x * c.theta[at + 1] - y * c.theta[at];
        }
    std::vector<double> scores;
    for (index n = 0; n < tokens; ++n) {
        double score = 0;
        for (index j = 0; j < c.pairs; ++j) {
            double re = 0, im = 0;
            for (index r = 0; r < c.rounds; ++r) {
                const index code = keys.codes[static_cast<std::size_t>(r * tokens + n)];
                const auto a =
                    static_cast<std::size_t>(((r * c.centres + code / c.centres) * c.pairs + j) * 2);
                const auto b =
                    static_cast<std::size_t>(((r * c.centres + code % c.centres) * c.pairs + j) * 2);
                re += met[a] - met[b + 1];
                im += met[a + 1] + met[b];
            }
            const double angle = positions[static_cast<std::size_t>(n)] * s.omega(j);
            score += re * std::cos(angle) - im * std::sin(angle);
        }
        scores.push_back(keys.scale[static_cast<std::size_t>(n)] * score);
    }
    return scores;
}

/// The small centres that best fit soft assignments: weighted least squares of all large centres against the
/// weighted means of their keys.
/// Shapes:   assignments [tokens, centres^2], rows of weights; z [tokens, 2 * pairs], half_split, the
///           residuals that a round encodes; the result [2 * centres, pairs], rows x_0, y_0, x_1, y_1, ...
/// Throws:   invalid_config on sizes that disagree, or ridge <= 0.
/// Source:   UMass-Embodied-AGI/CommVQ training/quantize_key_cache.py (ridge 1e-8 on every weight).
template <class Scalar = double>
std::vector<double> fit_centres(index centres, index pairs, std::span<const double> assignments,
                                std::span<const double> z, double ridge = 1e-8) {
    constexpr const char* who = "commvq::fit_centres";
    using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
    detail::require(centres >= 1 && centres <= 4096, who, "centres must be in 1 .. 4096", centres);
    detail::require(pairs >= 1 && static_cast<index>(z.size()) % (2 * pairs) == 0, who,
                    "z must hold tokens * 2 * pairs numbers", z.size());
    detail::require(std::isfinite(ridge) && ridge > 0, who, "ridge must be finite and > 0", ridge);
    const index tokens = static_cast<index>(z.size()) / (2 * pairs), count = centres * centres;
    detail::require(static_cast<index>(assignments.size()) == tokens * count, who,
                    "assignments must hold tokens * centres^2 numbers", assignments.size());
    matrix normal = matrix::Zero(2 * centres, 2 * centres), right = matrix::Zero(2 * centres, pairs);
    for (index code = 0; code < count; ++code) {
        double weight = ridge;
        std::vector<double> mean(static_cast<std::size_t>(2 * pairs));
        for (index n = 0; n < tokens; ++n) {
            const double w = assignments[static_cast<std::size_t>(n * count + code)];
            weight += w;
            for (index i = 0; i < 2 * pairs; ++i)
                mean[static_cast<std::size_t>(i)] += w * z[static_cast<std::size_t>(n * 2 * pairs + i)];
        }
        const index xa = 2 * (code / centres), ya = xa + 1, xb = 2 * (code % centres), yb = xb + 1;
        // One equation is for X_A - Y_B, the other for Y_A + X_B.
        const auto add = [&](index plus, index other, double sign, index first) {
            normal(plus, plus) += weight;
            normal(other, other) += weight;
            normal(plus, other) += sign * weight;
            normal(other, plus) += sign * weight;
            for (index j = 0; j < pairs; ++j) {
                const double value = mean[static_cast<std::size_t>(first + j)];
                right(plus, j) += value;
                right(other, j) += sign * value;
            }
        };
        add(xa, yb, -1, 0);
        add(ya, xb, 1, pairs);
    }
    const matrix solved = normal.ldlt().solve(right);
    std::vector<double> out;
    for (index r = 0; r < 2 * centres; ++r)
        for (index j = 0; j < pairs; ++j) out.push_back(static_cast<double>(solved(r, j)));
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::commvq
