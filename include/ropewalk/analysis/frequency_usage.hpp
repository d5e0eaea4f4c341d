// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Which frequencies a model uses: wavelengths, pairs that complete a turn in training, norms per pair.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE::analysis {

/// The wavelength of every pair in positions per turn (2 pi / omega); infinite for a pair with frequency 0.
/// Source: YaRN, Peng et al. 2023, section 3.1.
inline std::vector<double> make_wavelengths(const spectrum& s) {
    std::vector<double> wavelengths(static_cast<std::size_t>(s.pairs()));
    for (index i = 0; i < s.pairs(); ++i)
        wavelengths[static_cast<std::size_t>(i)] = 2 * std::numbers::pi / std::abs(s.omega(i));
    return wavelengths;
}

/// The number of pairs that complete at least one turn within a context. These have seen every angle in
/// training; the other pairs reach new angles beyond it. (The critical dimension is twice this number.)
/// Source: Scaling Laws of RoPE-based Extrapolation, Liu et al. 2023.
inline index count_full_turns(const spectrum& s, double context_length) {
    index count = 0;
    for (double wavelength : make_wavelengths(s)) count += wavelength <= context_length;
    return count;
}

/// The mean norm of every pair over the tokens of a tensor: which frequencies the heads of a model use.
/// Rotation does not change these norms, so queries and keys may be given before or after it.
/// Shapes:   x [batches, tokens, heads, channels]; the result [heads, pairs], pairs = channels / 2.
/// Throws:   invalid_config on odd channels or a layout that does not fit them.
/// Accuracy: sums in f64.
/// Source:   Round and Round We Go, Barbero et al. 2024, section 4.
template <class T>
std::vector<double> make_pair_norms(pair_layout layout, heads_view<T> x) {
    detail::require_readable("make_pair_norms", "x", x);
    detail::require(x.channels() % 2 == 0, "make_pair_norms", "channels must be even", x.channels());
    const index pairs = x.channels() / 2;
    detail::require(layout.fits(pairs), "make_pair_norms",
                    "channels must be a multiple of the layout's group", x.channels());
    std::vector<double> norms(static_cast<std::size_t>(x.heads() * pairs));
    const auto tokens = static_cast<double>(x.batches() * x.tokens());
    using compute = typename dtype<T>::compute;
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n)
            for (index h = 0; h < x.heads(); ++h) {
                const T* channels = x.at(b, n, h);
                for (index i = 0; i < pairs; ++i) {
                    const auto u =
                        static_cast<double>(static_cast<compute>(channels[layout.first(i, pairs)]));
                    const auto v =
                        static_cast<double>(static_cast<compute>(channels[layout.second(i, pairs)]));
                    norms[static_cast<std::size_t>(h * pairs + i)] += std::hypot(u, v) / tokens;
                }
            }
    return norms;
}

/// Every pair's share of its head's norms: make_pair_norms, each head summing to 1 (a head of zeros: all 0).
/// Shapes, Throws, Accuracy: as make_pair_norms.
/// Source:   Round and Round We Go, Barbero et al. 2024, section 4.
template <class T>
std::vector<double> make_pair_shares(pair_layout layout, heads_view<T> x) {
    auto shares = make_pair_norms(layout, x);
    const index pairs = x.channels() / 2;
    for (index h = 0; h < x.heads(); ++h) {
        double sum = 0;
        for (index i = 0; i < pairs; ++i) sum += shares[static_cast<std::size_t>(h * pairs + i)];
        for (index i = 0; i < pairs && sum > 0; ++i) shares[static_cast<std::size_t>(h * pairs + i)] /= sum;
    }
    return shares;
}

}  // namespace ROPEWALK_NAMESPACE::analysis
