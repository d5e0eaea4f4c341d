// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// TransMLA's RoRoPE and FreqFold: concentrates the rotation of grouped-query keys in one virtual head.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <Eigen/Eigenvalues>

#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

struct rope_folding_config {
    index heads = 0;          ///< kv heads
    index head_dim = 0;       ///< channels of each, all of which rotate
    index fold = 1;           ///< neighbouring frequencies that are mixed; 1: none
    index collapse = 1;       ///< how many of them then share one frequency; divides fold
    double damping = 0.01;    ///< factor: this times the mean of the diagonal is added to the diagonal
    pair_layout layout = {};  ///< of the keys' channels
};

/// TransMLA's change of basis of grouped-query keys. One orthogonal matrix per group of `fold` frequencies
/// mixes the first channels of all heads' pairs, and the same matrix mixes their second channels, so pairs
/// remain pairs of the same frequency. The components with the largest energy come first, in virtual head 0,
/// the only one that then needs to rotate. The other components do not depend on the position and can be
/// compressed into a latent.
/// Shapes:   groups() = head_dim / (2 fold) matrices of components() = heads * fold rows; heads * collapse
///           virtual heads of head_dim / collapse channels, interleaved.
/// Accuracy: with fold 1, scores with all virtual heads rotated equal those of the original keys within 1e-13
///           of |q| |k| in f64. With a larger fold, components of different frequencies rotate by one of
///           these, and only scores at equal positions are exact. Eigenvectors of equal eigenvalues are
///           arbitrary within their span.
/// Source:   TransMLA, Meng et al. 2025 (arXiv 2502.07864): RoRoPE and FreqFold;
///           MuLabPKU/TransMLA transmla/partial_rope.py.
struct rope_folding {
    rope_folding_config config;           ///< the config it was made from
    Eigen::MatrixXd map;                  ///< [latent channels, channels]: latent = map * (keys of all heads)
    std::vector<Eigen::MatrixXd> mixing;  ///< eigenvectors of each group as columns, the largest entry > 0
    std::vector<Eigen::VectorXd> eigenvalues;  ///< energies of each group, damping included, descending

    /// Groups of frequencies.
    index groups() const noexcept { return static_cast<index>(mixing.size()); }
    /// The size of a group's matrix: channels that it mixes of one member of the pairs.
    index components() const noexcept { return config.heads * config.fold; }
    /// Virtual heads of a latent key.
    index virtual_heads() const noexcept { return config.heads * config.collapse; }
    /// Channels of a virtual head.
    index virtual_dim() const noexcept { return config.head_dim / config.collapse; }

    /// W_k [heads * head_dim, in] transformed for latent keys; a bias is one more column.
    /// Throws:   invalid_config on another number of rows.
    Eigen::MatrixXd key_weights(const Eigen::MatrixXd& weight) const {
        detail::require_equal("rope_folding::key_weights", "weight must have heads * head_dim rows",
                              map.cols(), weight.rows());
        return map * weight;
    }
    /// The columns of the map that a query head reads, [latent channels, head_dim]: query_map * q is a query
    /// for latent keys. Query heads are in order, the same number per kv head.
    /// Throws:   invalid_config when query_heads is not a multiple of the heads, or on a query_head that does
    ///           not exist.
    Eigen::MatrixXd query_map(index query_head, index query_heads) const {
        constexpr const char* who = "rope_folding::query_map";
        detail::require(query_heads >= 1 && query_heads % config.heads == 0, who,
                        "query_heads must be a multiple of the heads", query_heads);
        detail::require(query_head >= 0 && query_head < query_heads, who,
                        "query_head must be in 0 .. query_heads - 1", query_head);
        return map.middleCols(query_head / (query_heads / config.heads) * config.head_dim, config.head_dim);
    }
    /// The scheme of a virtual head: the first of every `collapse` frequencies, interleaved. Head 0 is the
    /// first virtual_dim() channels of the latent key, head 1 the next.
    /// Throws:   invalid_config when the spectrum does not have head_dim / 2 pairs, or has several heads.
    rotary_scheme scheme(const spectrum& frequencies) const {
        constexpr const char* who = "rope_folding::scheme";
        detail::require(2 * frequencies.pairs() == config.head_dim, who,
                        "frequencies must have head_dim / 2 pairs", frequencies.pairs());
        detail::require(frequencies.heads() == 1, who, "frequencies must be those of all heads",
                        frequencies.heads());
        std::vector<index> kept;
        for (index i = 0; i < frequencies.pairs(); i += config.collapse) kept.push_back(i);
        return make_fixed_scheme({.name = "transmla", .layout = interleaved{}},
                                 frequencies::select_pairs(frequencies, kept, 1));
    }
    /// The share of the keys' energy in virtual head 0, which measures what is preserved when it alone
    /// rotates.
    double first_head_share() const noexcept {
        double first = 0, all = 0;
        for (const Eigen::VectorXd& values : eigenvalues) {
            first += values.head(config.fold / config.collapse).sum();
            all += values.sum();
        }
        return all > 0 ? first / all : 0;
    }
};

/// The folding of a layer from keys of calibration text.
/// Shapes:   keys [tokens, heads * head_dim], before the rotation; padding as rows of 0.
/// Throws:   invalid_config on heads < 1, an odd head_dim or one below 2, a fold that does not divide the
///           pairs, a collapse that does not divide fold, a layout that does not fit, damping < 0, keys of
///           another width or not finite, or no keys.
/// Cost:     tokens * heads^2 * head_dim * fold multiply-adds, and one symmetric eigenproblem per group.
/// Accuracy: f64; eigenvalues within 1e-12 of the largest.
/// Source:   as rope_folding.
template <class Derived>
rope_folding make_rope_folding(const rope_folding_config& config, const Eigen::MatrixBase<Derived>& keys) {
    constexpr const char* who = "make_rope_folding";
    const index heads = config.heads, d = config.head_dim, pairs = d / 2, fold = config.fold;
    detail::require(heads >= 1, who, "heads must be >= 1", heads);
    detail::require(d >= 2 && d % 2 == 0, who, "head_dim must be even and > 0", d);
    detail::require(fold >= 1 && pairs % fold == 0, who, "fold must divide head_dim / 2", fold);
    detail::require(config.collapse >= 1 && fold % config.collapse == 0, who, "collapse must divide fold",
                    config.collapse);
    detail::require(config.layout.fits(pairs), who, "layout must divide the channels", config.layout.group);
    detail::require(std::isfinite(config.damping) && config.damping >= 0, who,
                    "damping must be finite and >= 0", config.damping);
    const index width = detail::checked_product(who, "keys must fit in memory", {heads, d});
    detail::require_equal(who, "keys must have heads * head_dim columns", width, keys.cols());
    detail::require(keys.rows() >= 1, who, "keys must not be empty, rows", keys.rows());
    detail::require(keys.allFinite(), who, "keys must be finite, their sum", keys.sum());

    rope_folding out{
        .config = config, .map = Eigen::MatrixXd::Zero(width, width), .mixing = {}, .eigenvalues = {}};
    const index groups = pairs / fold, count = heads * fold, shared = config.collapse,
                members = fold / shared;
    Eigen::MatrixXd rows(2 * keys.rows(), count);
    std::vector<index> first(static_cast<std::size_t>(count)), second(first.size());
    for (index g = 0; g < groups; ++g) {
        // Component (s, head, m): frequency g * fold + m * collapse + s of that head, so that components of
        // one virtual head are one of each set of frequencies that will share the first.
        for (index c = 0; c < count; ++c) {
            const index m = c % members, head = c / members % heads, s = c / (members * heads);
            const index i = g * fold + m * shared + s;
            first[static_cast<std::size_t>(c)] = head * d + config.layout.first(i, pairs);
            second[static_cast<std::size_t>(c)] = head * d + config.layout.second(i, pairs);
            rows.col(c).head(keys.rows()) =
                keys.col(first[static_cast<std::size_t>(c)]).template cast<double>();
            rows.col(c).tail(keys.rows()) =
                keys.col(second[static_cast<std::size_t>(c)]).template cast<double>();
        }
        Eigen::MatrixXd energy = rows.transpose() * rows;
        energy.diagonal().array() += config.damping * energy.diagonal().mean();
        detail::require(energy.allFinite(), who,
                        "keys and damping must leave energies finite, the largest key",
                        static_cast<double>(keys.cwiseAbs().maxCoeff()));
        const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solved(energy);  // ascending
        Eigen::MatrixXd vectors = solved.eigenvectors().rowwise().reverse();
        for (index c = 0; c < count; ++c) {
            Eigen::Index largest = 0;
            vectors.col(c).cwiseAbs().maxCoeff(&largest);
            if (vectors(largest, c) < 0) vectors.col(c) *= -1;
            // Virtual head c / members, pair (g, c % members) of it, interleaved.
            const index to = 2 * ((c / members * groups + g) * members + c % members);
            for (index from = 0; from < count; ++from) {
                out.map(to, first[static_cast<std::size_t>(from)]) = vectors(from, c);
                out.map(to + 1, second[static_cast<std::size_t>(from)]) = vectors(from, c);
            }
        }
        out.mixing.push_back(std::move(vectors));
        out.eigenvalues.push_back(solved.eigenvalues().reverse());
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
