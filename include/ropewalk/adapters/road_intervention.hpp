// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoAd in a subspace: distributed interchange interventions with a learned projection.
#pragma once

#include <algorithm>
#include <cmath>

#include <Eigen/Core>

#include <ropewalk/adapters/road.hpp>
#include <ropewalk/attention/tile_product.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/fit_view.hpp>

namespace ROPEWALK_NAMESPACE::detail {
/// `count` rounded up to whole registers.
template <class T>
constexpr index registers_of(index count) noexcept {
    return (count + simd::lanes<T> - 1) / simd::lanes<T> * simd::lanes<T>;
}
}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// An adapter that acts in a subspace only: y = h + M^T (R M h - M h) with M [subspace, channels] of
/// orthonormal rows and R the blocks of the subspace. The part of h outside the subspace does not change;
/// adapters on orthogonal subspaces commute. With rows of the unit matrix as M, the subspace is a selection
/// of channels, as in select_pairs.
/// Shapes:   projection [blocks.channels(), channels].
/// Throws:   invalid_config on malformed blocks, a projection of other rows, or rows that are not orthonormal
///           to 1e-6 (what f32 training leaves).
/// Cost:     2 * subspace * channels multiply-adds per row; allocates in the constructor only. One call at a
///           time per object.
/// Accuracy: f64 within 1e-12, f32 within 1e-5 of make_intervention_matrix times h, for order-1 inputs.
/// Source:   RoAd, Liao and Monz 2024, section 3.3 (distributed interchange interventions).
///
///     road::intervention<float> change(projection, road::make_blocks(learned));
///     change.mix(hidden);
template <class T = float>
class intervention {
  public:
    intervention(const Eigen::MatrixXd& projection, const pair_blocks& blocks) {
        constexpr const char* who = "road::intervention";
        detail::require_valid(who, blocks);
        detail::require_equal(who, "projection must have a row for each of R's channels", blocks.channels(),
                              projection.rows());
        const Eigen::MatrixXd off = projection * projection.transpose() -
                                    Eigen::MatrixXd::Identity(projection.rows(), projection.rows());
        const double most = projection.rows() == 0 ? 0.0 : off.cwiseAbs().maxCoeff();
        detail::require(projection.allFinite() && most <= 1e-6, who,
                        "projection must have orthonormal rows, M M^T being off by at most 1e-6", most);
        channels_ = projection.cols();
        subspace_ = projection.rows();
        wide_ = detail::registers_of<T>(channels_);
        narrow_ = detail::registers_of<T>(subspace_);
        rows_ = std::clamp<index>(block_bytes / (wide_ * static_cast<index>(sizeof(T)) + 1), 8, 64) / 8 * 8;
        const Eigen::MatrixXd change = make_matrix(blocks) * projection - projection;
        back_.resize(detail::road_at(subspace_ * wide_));
        into_.resize(detail::road_at(channels_ * narrow_));
        for (index i = 0; i < subspace_; ++i)
            for (index c = 0; c < channels_; ++c) {
                back_[detail::road_at(i * wide_ + c)] = static_cast<T>(projection(i, c));
                into_[detail::road_at(c * narrow_ + i)] = static_cast<T>(change(i, c));
            }
        h_.resize(detail::road_at(rows_ * wide_));
        moved_.resize(detail::road_at(rows_ * narrow_));
    }

    index channels() const noexcept { return channels_; }
    /// The dimension of the subspace.
    index subspace() const noexcept { return subspace_; }

    /// h <- h + M^T (R M h - M h), in place.
    /// Shapes:   h [batches, tokens, heads, channels], any strides.
    /// Returns:  true; false, with h untouched, when its channels or strides do not fit and
    ///           ROPEWALK_ON_MISFIT lets the program continue.
    template <class E>
    bool mix(heads_view<E> h) noexcept {
        static_assert(std::is_same_v<compute_t<E>, T>,
                      "f64 data by an intervention<double>, other by <float>");
        constexpr const char* who = "road::intervention::mix";
        if (!detail::fits(who, detail::fit_writable(h))) return false;
        if (h.empty()) return true;
        if (h.channels() != channels())
            return detail::tell(who, {"channels must be those of the projection", channels(), h.channels()});
        const index per_batch = h.tokens() * h.heads(), all = h.batches() * per_batch;
        const auto row = [&](index i) {
            return reinterpret_cast<stored_t<E>*>(
                h.at(i / per_batch, i % per_batch / h.heads(), i % h.heads()));
        };
        for (index first = 0; first < all; first += rows_) {
            const index count = std::min(rows_, all - first);
            for (index i = 0; i < count; ++i) copy(row(first + i), h_.data() + i * wide_);
            mix_block(count);
            for (index i = 0; i < count; ++i) copy(h_.data() + i * wide_, row(first + i));
        }
        return true;
    }

  private:
    static constexpr index block_bytes = 1 << 18;  // of the rows of one block, which stay in the L2 cache

    template <class From, class To>
    void copy(const From* from, To* to) const noexcept {
        constexpr index n = simd::lanes<T>;
        index c = 0;
        for (; c + n <= channels_; c += n) simd::store(to + c, simd::load(from + c));
        if (c < channels_) simd::store_some(to + c, simd::load_some(from + c, channels_ - c), channels_ - c);
    }
    /// The first `rows` of h_: moved = h (R M - M)^T, then h += moved M.
    void mix_block(index rows) noexcept {
        constexpr index n = simd::lanes<T>;
        using detail::left, detail::onto;
        detail::tile_product<left::rows, onto::nothing, T>(rows, narrow_ / n, channels_, {h_.data(), wide_},
                                                           {into_.data(), narrow_}, {moved_.data(), narrow_});
        detail::tile_product<left::rows, onto::sum, T>(rows, wide_ / n, subspace_, {moved_.data(), narrow_},
                                                       {back_.data(), wide_}, {h_.data(), wide_});
    }

    index channels_ = 0, subspace_ = 0;
    index wide_ = 0, narrow_ = 0;            // channels and subspace in whole registers
    index rows_ = 0;                         // rows of one block
    detail::aligned_vector<T> into_, back_;  // (R M - M)^T [channels, narrow], M [subspace, wide]
    detail::aligned_vector<T> h_, moved_;    // [rows, wide] and [rows, narrow]
};

/// The intervention as a dense matrix P = I + M^T (R - I) M, which is merged into a layer as W' = P W, b' = P
/// b.
/// Shapes:   [channels, channels].
/// Throws:   as intervention.
/// Source:   as intervention.
inline Eigen::MatrixXd make_intervention_matrix(const Eigen::MatrixXd& projection,
                                                const pair_blocks& blocks) {
    const intervention<double> checked(projection, blocks);
    return Eigen::MatrixXd::Identity(projection.cols(), projection.cols()) +
           projection.transpose() * (make_matrix(blocks) * projection - projection);
}

}  // namespace ROPEWALK_NAMESPACE::road
