// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <vector>

#include <Eigen/Core>

#include <ropewalk/adapters/road.hpp>

namespace ROPEWALK_NAMESPACE::road {

/// An adapter that acts in a subspace only: y = h + M^T (R M h - M h) with M [subspace, channels] of
/// orthonormal rows and R the blocks of the subspace. What h has outside stays; adapters on orthogonal
/// subspaces commute. Rows of the unit matrix as M: a choice of channels, as select_pairs.
/// Shapes:   projection [blocks.channels(), channels].
/// Throws:   invalid_config on malformed blocks, a projection of other rows, or rows that are not orthonormal
///           to 1e-6 (what f32 training leaves).
/// Cost:     2 * subspace * channels multiply-adds a row; allocates in the constructor only. One call at a
///           time an object.
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
        detail::require(projection.rows() == blocks.channels(), who,
                        "projection must have a row for each of R's channels", projection.rows());
        const Eigen::MatrixXd off = projection * projection.transpose() -
                                    Eigen::MatrixXd::Identity(projection.rows(), projection.rows());
        const double most = projection.rows() == 0 ? 0.0 : off.cwiseAbs().maxCoeff();
        detail::require(projection.allFinite() && most <= 1e-6, who,
                        "projection must have orthonormal rows, M M^T being off by at most 1e-6", most);
        projection_ = projection.cast<T>();
        change_ = (make_matrix(blocks) * projection - projection).template cast<T>();
        moved_.resize(detail::road_at(projection.rows()));
    }

    index channels() const noexcept { return projection_.cols(); }
    /// The dimension of the subspace.
    index subspace() const noexcept { return projection_.rows(); }

    /// h <- h + M^T (R M h - M h), in place.
    /// Shapes:   h [batches, tokens, heads, channels], any strides.
    /// Returns:  true; false, with h untouched, where its channels are others and ROPEWALK_ON_MISFIT lets the
    ///           program go on.
    template <class E>
    bool mix(heads_view<E> h) noexcept {
        static_assert(std::is_same_v<compute_t<E>, T>,
                      "f64 data by an intervention<double>, other by <float>");
        if (!h.empty() && h.channels() != channels())
            return detail::tell("road::intervention::mix",
                                {"channels must be those of the projection", channels(), h.channels()});
        for (index b = 0; b < h.batches(); ++b)
            for (index n = 0; n < h.tokens(); ++n)
                for (index head = 0; head < h.heads(); ++head) mix_row(h.at(b, n, head));
        return true;
    }

  private:
    template <class E>
    void mix_row(E* row) noexcept {
        auto* const x = reinterpret_cast<stored_t<E>*>(row);
        for (index i = 0; i < subspace(); ++i) {
            const T* const with = change_.data() + i * channels();
            T sum = 0;
            for (index c = 0; c < channels(); ++c) sum += with[c] * static_cast<T>(x[c]);
            moved_[detail::road_at(i)] = sum;
        }
        for (index c = 0; c < channels(); ++c) {
            T sum = 0;
            for (index i = 0; i < subspace(); ++i)
                sum += moved_[detail::road_at(i)] * projection_.data()[i * channels() + c];
            x[c] = stored_t<E>(static_cast<T>(x[c]) + sum);
        }
    }

    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    matrix projection_, change_;  // M, and R M - M
    std::vector<T> moved_;
};

/// The intervention written out, I + M^T (R - I) M: merged into a layer as W' = P W, b' = P b.
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
