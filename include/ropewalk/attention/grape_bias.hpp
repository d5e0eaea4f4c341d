// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// GRAPE's additive form: attention biases that grow with distance, with learned or input-dependent rates.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/core/fit_view.hpp>

/// GRAPE's additive form: a negative bias on the logits that grows with the distance, at a rate that depends
/// on queries, on keys or on the tokens between them. A constant rate is ALiBi.
/// Source:   GRAPE, arXiv 2512.07805; model-architectures/GRAPE model/.
namespace ROPEWALK_NAMESPACE::grape {

/// ALiBi's slopes: 2^(-8 (h + 1) / H) for a power of two H; else those of the next lower power of two,
/// followed by every second one of twice that.
/// Throws:   invalid_config on heads < 1 or above 65536.
/// Source:   Train Short, Test Long, arXiv 2108.12409.
inline std::vector<double> slopes(index heads) {
    detail::require(heads >= 1 && heads <= 65536, "grape::slopes", "heads must be in 1 .. 65536", heads);
    index power = 1;
    while (2 * power <= heads) power *= 2;
    const auto at = [](index h, index of) {
        return std::exp2(-8 * static_cast<double>(h + 1) / static_cast<double>(of));
    };
    std::vector<double> all;
    for (index h = 0; h < power; ++h) all.push_back(at(h, power));
    for (index h = 0; static_cast<index>(all.size()) < heads; h += 2) all.push_back(at(h, 2 * power));
    return all;
}

/// ln(1 + e^x) without overflow. Source: log1p(exp(-|x|)) + max(x, 0).
inline double softplus(double x) noexcept { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0); }

/// What the rate of a bias depends on: the key, the query, or both (the sum of the two rates).
enum class gate : std::uint8_t { key, query, both };
/// Whether gate vectors are used as unit vectors.
enum class gate_norm : std::uint8_t { unit, as_given };

struct bias_config {
    gate by = gate::key;               ///< what the rate depends on
    gate_norm norm = gate_norm::unit;  ///< whether gate vectors are made unit vectors
};

/// The learned parameters of the gates.
struct bias_parameters {
    std::span<const double> u = {};  ///< against keys, [heads, channels]
    std::span<const double> v = {};  ///< against queries, [heads, channels]
    std::span<const double> omega;   ///< strength before its softplus, [heads]
};

/// bias[h, i, j] = -(i - j) softplus(omega_h) slope_h rate, with rate = softplus(u . k_j / sqrt d),
/// softplus(v . q_i / sqrt d) or their sum; 0 above the diagonal, where attention masks.
/// Shapes:   q and k [tokens, heads, channels], one batch, after their norms; the result [heads, tokens,
///           tokens].
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     heads * tokens * (channels + tokens).
/// Accuracy: f64.
/// Source:   model-architectures/GRAPE model/ (GRAPE-A).
template <class T>
std::vector<double> make_bias(const bias_config& c, const bias_parameters& p, heads_view<const T> q,
                              heads_view<const T> k) {
    constexpr const char* who = "grape::make_bias";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    const index heads = q.heads(), tokens = q.tokens(), channels = q.channels();
    detail::require(q.batches() == 1 && k.batches() == 1, who, "batches must be 1", q.batches());
    detail::require_equal(who, "k.tokens must be q's", tokens, k.tokens());
    detail::require_equal(who, "k.heads must be q's", heads, k.heads());
    detail::require_equal(who, "k.channels must be q's", channels, k.channels());
    detail::require_equal(who, "omega must hold one number a head", heads, p.omega.size());
    const auto wanted = static_cast<std::size_t>(heads * channels);
    detail::require(c.by == gate::query || p.u.size() == wanted, who, "u must hold heads * channels numbers",
                    p.u.size());
    detail::require(c.by == gate::key || p.v.size() == wanted, who, "v must hold heads * channels numbers",
                    p.v.size());
    std::vector<double> bias(static_cast<std::size_t>(
        detail::checked_product(who, "extents must be >= 0 and fit in memory", {heads, tokens, tokens})));
    const auto slope = heads > 0 ? slopes(heads) : std::vector<double>{};
    // The rate of each token of a head from one side (queries or keys).
    const auto rates = [&](std::span<const double> gates, heads_view<const T> x, index h) {
        const auto gate =
            gates.subspan(static_cast<std::size_t>(h * channels), static_cast<std::size_t>(channels));
        double length = 0;
        for (const double g : gate) length += g * g;
        length = c.norm == gate_norm::unit ? std::max(std::sqrt(length), 1e-6) : 1;
        std::vector<double> all;
        for (index n = 0; n < tokens; ++n) {
            double sum = 0;
            for (index i = 0; i < channels; ++i)
                sum += gate[static_cast<std::size_t>(i)] * static_cast<double>(x.at(0, n, h)[i]);
            all.push_back(softplus(sum / length / std::sqrt(static_cast<double>(channels))));
        }
        return all;
    };
    for (index h = 0; h < heads; ++h) {
        const auto none = std::vector<double>(static_cast<std::size_t>(tokens), 0.0);
        const auto of_keys = c.by == gate::query ? none : rates(p.u, k, h);
        const auto of_queries = c.by == gate::key ? none : rates(p.v, q, h);
        const double strength =
            softplus(p.omega[static_cast<std::size_t>(h)]) * slope[static_cast<std::size_t>(h)];
        for (index i = 0; i < tokens; ++i)
            for (index j = 0; j < i; ++j)
                bias[static_cast<std::size_t>((h * tokens + i) * tokens + j)] =
                    -static_cast<double>(i - j) * strength *
                    (of_keys[static_cast<std::size_t>(j)] + of_queries[static_cast<std::size_t>(i)]);
    }
    return bias;
}

/// The path form: bias[h, i, j] is the sum over the tokens l = j + 1 .. i of slope_h ln sigmoid(p_i . R(l)
/// n(p_l) / width), where n is an RMS norm and R(l) rotates every half-split pair by l radians, clockwise.
/// Shapes:   p [tokens, heads, channels], one batch; the result [heads, tokens, tokens], 0 above the
///           diagonal.
/// Throws:   invalid_config on an odd number of channels or more than one batch.
/// Cost:     heads * tokens^2 * channels.
/// Source:   model-architectures/GRAPE model/ (GRAPE-AP).
template <class T>
std::vector<double> make_path_bias(heads_view<const T> p) {
    constexpr const char* who = "grape::make_path_bias";
    detail::require_readable(who, "p", p);
    const index heads = p.heads(), tokens = p.tokens(), channels = p.channels(), pairs = channels / 2;
    detail::require(p.batches() == 1, who, "batches must be 1", p.batches());
    detail::require(channels % 2 == 0, who, "channels must be even", channels);
    std::vector<double> bias(static_cast<std::size_t>(
        detail::checked_product(who, "extents must be >= 0 and fit in memory", {heads, tokens, tokens})));
    const auto slope = heads > 0 ? slopes(heads) : std::vector<double>{};
    std::vector<double> steps(static_cast<std::size_t>(tokens * channels));
    for (index h = 0; h < heads; ++h) {
        for (index l = 0; l < tokens; ++l) {
            const T* const x = p.at(0, l, h);
            double sum = 0;
            for (index i = 0; i < channels; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
            const double by = 1 / std::sqrt(sum / static_cast<double>(channels) + 0x1p-23);
            const double cos = by * std::cos(static_cast<double>(l)),
                         sin = by * std::sin(static_cast<double>(l));
            double* const to = steps.data() + l * channels;
            for (index i = 0; i < pairs; ++i) {
                const auto u = static_cast<double>(x[i]), v = static_cast<double>(x[i + pairs]);
                to[i] = u * cos + v * sin;
                to[i + pairs] = v * cos - u * sin;
            }
        }
        for (index i = 0; i < tokens; ++i) {
            double path = 0;
            for (index l = i; l > 0; --l) {
                double sum = 0;
                for (index c = 0; c < channels; ++c)
                    sum += static_cast<double>(p.at(0, i, h)[c]) *
                           steps[static_cast<std::size_t>(l * channels + c)];
                path -= slope[static_cast<std::size_t>(h)] * softplus(-sum / static_cast<double>(channels));
                bias[static_cast<std::size_t>((h * tokens + i) * tokens + l - 1)] = path;
            }
        }
    }
    return bias;
}

}  // namespace ROPEWALK_NAMESPACE::grape
