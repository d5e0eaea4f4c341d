// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// GRAPE-3D's learned planes: a sum of rotations, each in its own plane over all channels of a head.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::grape {

struct planes_config {
    index channels = 0;
    index planes = 0;   ///< learned planes, each over all channels
    double base = 1e4;  ///< plane p rotates by base^(-p / planes) radians per unit of position
};

/// GRAPE-3D's learned planes. To x is added, for every plane, the change that a rotation inside that plane
/// makes; its angle is the projection of the position on the plane's own direction. The changes are added,
/// not composed, so the map is a rotation only where the planes are orthogonal to one another.
/// Shapes:   x [tokens, channels] as one head per token (batches too), positions [tokens, axes], plane_a and
///           plane_b [planes, channels], directions [planes, axes]; angles [tokens, planes].
/// Throws:   invalid_config on sizes that disagree, a direction or a plane of length 0.
/// Source:   GRAPE, arXiv 2512.07805; JJJYmmm/Multimodal-RoPEs freq_allocation (GRAPE-3D mixed).
class learned_planes {
  public:
    learned_planes(const planes_config& config, std::span<const double> plane_a,
                   std::span<const double> plane_b, std::span<const double> directions)
        : config_(config),
          a_(plane_a.begin(), plane_a.end()),
          b_(plane_b.begin(), plane_b.end()),
          directions_(directions.begin(), directions.end()) {
        constexpr const char* who = "learned_planes";
        detail::require(config.channels >= 1, who, "channels must be >= 1", config.channels);
        detail::require(config.planes >= 1, who, "planes must be >= 1", config.planes);
        detail::require(std::isfinite(config.base) && config.base > 0, who, "base must be finite and > 0",
                        config.base);
        const index size = detail::checked_product(who, "planes and channels must be >= 1",
                                                   {config.planes, config.channels});
        detail::require_equal(who, "plane_a must hold planes * channels numbers", size, plane_a.size());
        detail::require_equal(who, "plane_b must hold planes * channels numbers", size, plane_b.size());
        const auto count = static_cast<index>(directions.size());
        detail::require(count > 0 && count % config.planes == 0, who,
                        "directions must hold planes * axes numbers", count);
        axes_ = count / config.planes;
        for (index p = 0; p < config.planes; ++p) {
            normalize("plane_a", row(a_, p, config.channels));
            // b keeps what is orthogonal to a.
            const auto a = row(a_, p, config.channels), b = row(b_, p, config.channels);
            double along = 0;
            for (std::size_t i = 0; i < a.size(); ++i) along += a[i] * b[i];
            for (std::size_t i = 0; i < a.size(); ++i) b[i] -= along * a[i];
            normalize("plane_b", b);
            normalize("directions", row(directions_, p, axes_));
        }
    }

    index axes() const noexcept { return axes_; }

    /// The angle of every plane at every token, [tokens, planes], radians.
    std::vector<double> angles(const position_ids& positions) const {
        detail::require_equal("learned_planes", "positions must have the directions' axes", axes_,
                              positions.axes());
        const auto values = positions.values();
        std::vector<double> all;
        for (index n = 0; n < positions.tokens(); ++n)
            for (index p = 0; p < config_.planes; ++p) {
                double along = 0;
                for (index k = 0; k < axes_; ++k)
                    along += directions_[static_cast<std::size_t>(p * axes_ + k)] *
                             values[static_cast<std::size_t>(n * axes_ + k)];
                all.push_back(along * std::pow(config_.base, -static_cast<double>(p) /
                                                                 static_cast<double>(config_.planes)));
            }
        return all;
    }

    /// Applies the map to every head of every token, in place; untouched tokens do not change.
    template <class T>
    void rotate_tokens(heads_view<T> x, const position_ids& positions) const {
        constexpr const char* who = "learned_planes::rotate_tokens";
        detail::require_writable(who, "x", x);
        detail::require_equal(who, "x.channels must be the planes'", config_.channels, x.channels());
        detail::require_equal(who, "positions must have one entry a token", x.batches() * x.tokens(),
                              positions.tokens());
        const auto rotated = angles(positions);
        std::vector<double> moved(static_cast<std::size_t>(config_.channels));
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n) {
                const index token = b * x.tokens() + n;
                for (index h = 0; h < x.heads() && positions.touched(token); ++h) {
                    auto* const head = reinterpret_cast<stored_t<T>*>(x.at(b, n, h));
                    const auto value = [&](index i) {
                        return static_cast<double>(static_cast<compute_t<T>>(head[i]));
                    };
                    for (index i = 0; i < config_.channels; ++i)
                        moved[static_cast<std::size_t>(i)] = value(i);
                    for (index p = 0; p < config_.planes; ++p) {
                        const double angle = rotated[static_cast<std::size_t>(token * config_.planes + p)];
                        const double s = std::sin(angle), half = std::sin(angle / 2);
                        double xa = 0, xb = 0;
                        for (index i = 0; i < config_.channels; ++i) {
                            xa += value(i) * a_[static_cast<std::size_t>(p * config_.channels + i)];
                            xb += value(i) * b_[static_cast<std::size_t>(p * config_.channels + i)];
                        }
                        const double less = -2 * half * half;  // cos - 1
                        const double along_a = less * xa - s * xb, along_b = less * xb + s * xa;
                        for (index i = 0; i < config_.channels; ++i)
                            moved[static_cast<std::size_t>(i)] +=
                                along_a * a_[static_cast<std::size_t>(p * config_.channels + i)] +
                                along_b * b_[static_cast<std::size_t>(p * config_.channels + i)];
                    }
                    for (index i = 0; i < config_.channels; ++i)
                        head[i] = static_cast<stored_t<T>>(
                            static_cast<compute_t<T>>(moved[static_cast<std::size_t>(i)]));
                }
            }
    }

  private:
    static std::span<double> row(std::vector<double>& v, index p, index size) {
        return std::span<double>(v).subspan(static_cast<std::size_t>(p * size),
                                            static_cast<std::size_t>(size));
    }
    static void normalize(const char* what, std::span<double> v) {
        double sum = 0;
        for (const double x : v) sum += x * x;
        detail::require(std::isfinite(sum) && sum > 0, "learned_planes",
                        (std::string(what) + " must hold vectors of length > 0").c_str(), sum);
        for (double& x : v) x /= std::sqrt(sum);
    }

    planes_config config_;
    index axes_ = 0;
    std::vector<double> a_, b_, directions_;
};

}  // namespace ROPEWALK_NAMESPACE::grape
