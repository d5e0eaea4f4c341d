// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoAd adapters: learned 2 x 2 rotations and scalings of channel pairs, their algebra, merging and tables.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

/// RoAd: a layer's output h = W x + b is rotated and scaled pair by pair, y = R h. An `adapter` holds the
/// learned parameters (angles theta, magnitudes alpha), `pair_blocks` the 2 x 2 matrices made from them, and
/// a pair_matrix_table one row of blocks per adapter, for mix_pairs with the layout of the blocks.
/// Source: Liao and Monz 2024 (arXiv 2409.00119); Hugging Face peft, tuners/road, which defines the pairing
///         and the order of parameters.
///
///     const road::adapter learned({.channels = 4096}, theta, alpha);
///     const auto table = road::make_table<float>(road::make_blocks(learned));
///     mix_pairs(learned.layout(), hidden, table.rows(adapter_of_token));    // -1: base, untouched
namespace ROPEWALK_NAMESPACE::road {

/// The free parameters of a 2 x 2 block: one angle and magnitude per pair (a scaled rotation), per channel,
/// or per entry.
enum class variant : std::uint8_t { road_1 = 1, road_2 = 2, road_4 = 4 };

/// The sizes of an adapter. Inside each group of `group` channels, channel c is paired with c + group / 2: a
/// group of 2 pairs neighbours; a group of all channels is the half split of NeoX.
struct adapter_config {
    index channels = 0;                       ///< of the layer's output
    index group = 64;                         ///< channels of a group; pairs are half-split inside each
    road::variant variant = variant::road_1;  ///< the number of parameters of a pair
};

}  // namespace ROPEWALK_NAMESPACE::road

namespace ROPEWALK_NAMESPACE::detail {

inline std::size_t road_at(index i) noexcept { return static_cast<std::size_t>(i); }

inline void require_valid(const road::adapter_config& c) {
    using road::variant;
    constexpr const char* who = "road::adapter";
    require(c.channels >= 0, who, "channels must be >= 0", c.channels);
    require(c.group > 0 && c.group % 2 == 0, who, "group must be even and > 0", c.group);
    require(c.channels % c.group == 0, who, "group must divide channels", c.group);
    require(c.variant == variant::road_1 || c.variant == variant::road_2 || c.variant == variant::road_4, who,
            "variant must be road_1, road_2 or road_4", static_cast<int>(c.variant));
}

/// The indices of one channel's parameters: cos(theta[first]) alpha[first] is its first column,
/// sin(theta[second]) alpha[second] its second.
struct road_places {
    index first, second;
};
inline road_places places_of(const road::adapter_config& c, index channel) noexcept {
    using road::variant;
    const index half = c.group / 2, group = channel / c.group, inside = channel % c.group;
    if (c.variant == variant::road_1) return {group * half + inside % half, group * half + inside % half};
    if (c.variant == variant::road_2) return {channel, channel};
    return {2 * group * c.group + inside, (2 * group + 1) * c.group + inside};
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// The number of elements of theta, and of alpha.
/// Throws:   invalid_config on a group that does not fit.
/// Source:   peft, RoadLayer.update_layer.
inline index parameter_count(const adapter_config& c) {
    detail::require_valid(c);
    return c.variant == variant::road_1   ? c.channels / 2
           : c.variant == variant::road_2 ? c.channels
                                          : 2 * c.channels;
}

/// The learned parameters of one layer: theta (radians) and alpha, parameter_count numbers each. Order:
/// road_1 has one per pair, group by group; road_2 one per channel; road_4 has, in each group, first `group`
/// numbers for the first column, then `group` for the second.
/// Throws:   invalid_config on a group that does not divide the channels, a wrong count, or a number that
///           is not finite.
/// Source:   peft, RoadLayer.
class adapter {
  public:
    /// The identity: theta 0, alpha 1.
    explicit adapter(adapter_config config)
        : adapter(config, std::vector<double>(detail::road_at(parameter_count(config)), 0.0),
                  std::vector<double>(detail::road_at(parameter_count(config)), 1.0)) {}
    adapter(adapter_config config, std::vector<double> theta, std::vector<double> alpha)
        : config_(config), theta_(std::move(theta)), alpha_(std::move(alpha)) {
        constexpr const char* who = "road::adapter";
        const auto count = static_cast<std::size_t>(parameter_count(config));
        detail::require_equal(who, "theta must hold parameter_count numbers", count, theta_.size());
        detail::require_equal(who, "alpha must hold parameter_count numbers", count, alpha_.size());
        for (double v : theta_) detail::require(std::isfinite(v), who, "theta must be finite", v);
        for (double v : alpha_) detail::require(std::isfinite(v), who, "alpha must be finite", v);
    }

    /// The config it was made from.
    const adapter_config& config() const noexcept { return config_; }
    /// Angles, in radians.
    const std::vector<double>& theta() const noexcept { return theta_; }
    /// Magnitudes.
    const std::vector<double>& alpha() const noexcept { return alpha_; }
    pair_layout layout() const noexcept { return pair_layout::blocked_by(config_.group); }

  private:
    adapter_config config_;
    std::vector<double> theta_, alpha_;
};

/// R as two numbers per channel: y = h first + rot(h) second, with rot(h) = (-h_e, h_a) for a pair (a, e).
/// Source: RoAd, eq. 4; peft, _prepare_cols.
struct columns {
    std::vector<double> first;   ///< [channels]
    std::vector<double> second;  ///< [channels]
};
/// The columns of an adapter's R.
inline columns make_columns(const adapter& a) {
    columns c;
    for (index i = 0; i < a.config().channels; ++i) {
        const auto from = detail::places_of(a.config(), i);
        c.first.push_back(a.alpha()[detail::road_at(from.first)] *
                          std::cos(a.theta()[detail::road_at(from.first)]));
        c.second.push_back(a.alpha()[detail::road_at(from.second)] *
                           std::sin(a.theta()[detail::road_at(from.second)]));
    }
    return c;
}

/// A block-diagonal matrix R: (x, y) <- (a x + b y, c x + d y) for the pairs of blocked_by(group).
/// Shapes:   a, b, c, d [channels / 2].
/// Source:   RoAd, eq. 3.
struct pair_blocks {
    index group = 2;        ///< channels of a group; pairs are half-split inside each
    std::vector<double> a;  ///< factors of x in the new x
    std::vector<double> b;  ///< factors of y in the new x
    std::vector<double> c;  ///< factors of x in the new y
    std::vector<double> d;  ///< factors of y in the new y

    index pairs() const noexcept { return static_cast<index>(a.size()); }
    index channels() const noexcept { return 2 * pairs(); }
    pair_layout layout() const noexcept { return pair_layout::blocked_by(group); }
};

}  // namespace ROPEWALK_NAMESPACE::road

namespace ROPEWALK_NAMESPACE::detail {

/// pair_blocks may be filled by the caller: checks its layout and the sizes of its four parts.
inline void require_valid(const char* who, const road::pair_blocks& r) {
    require(r.group > 0 && r.group % 2 == 0, who, "blocks.group must be even and > 0", r.group);
    for (const auto* part : {&r.b, &r.c, &r.d})
        require_equal(who, "blocks' a, b, c and d must be of one size", r.a.size(), part->size());
    require(r.channels() % r.group == 0, who, "blocks.group must divide the channels", r.group);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// The identity: a rotation by 0, with b = -c.
inline pair_blocks make_identity_blocks(index channels, index group) {
    detail::require_valid({.channels = channels, .group = group});
    const std::vector<double> one(detail::road_at(channels / 2), 1.0);
    const std::vector<double> zero(one.size(), 0.0), minus_zero(one.size(), -0.0);
    return {group, one, minus_zero, zero, one};  // a rotation by 0: b is -c
}

/// The blocks of an adapter: each pair is scaled and rotated, so that c is the second column of the adapter.
inline pair_blocks make_blocks(const adapter& from) {
    const columns col = make_columns(from);
    pair_blocks r{from.config().group, {}, {}, {}, {}};
    const index pairs = from.config().channels / 2;
    for (index i = 0; i < pairs; ++i) {
        const auto a = detail::road_at(from.layout().first(i, pairs));
        const auto e = detail::road_at(from.layout().second(i, pairs));
        r.a.push_back(col.first[a]);
        r.b.push_back(-col.second[a]);
        r.c.push_back(col.second[e]);
        r.d.push_back(col.first[e]);
    }
    return r;
}

/// The inverse, block by block. (It is the transpose only for road_1 with alpha 1, where R is orthogonal.)
/// Throws:   invalid_config when a block is singular: when |det| <= 1e-12 (|a d| + |b c|), where the inverse
///           would consist of rounding errors. Also, like every function of blocks, on malformed ones: a
///           group that is odd or does not divide the channels, or parts of different sizes.
/// Source:   ((d, -b), (-c, a)) / (a d - b c).
inline pair_blocks make_inverse(const pair_blocks& r) {
    detail::require_valid("road::make_inverse", r);
    pair_blocks inverse = r;
    for (std::size_t i = 0; i < r.a.size(); ++i) {
        const double straight = r.a[i] * r.d[i], crossed = r.b[i] * r.c[i], det = straight - crossed;
        detail::require(std::abs(det) > 1e-12 * (std::abs(straight) + std::abs(crossed)),
                        "road::make_inverse", "every block must be invertible, its determinant not 0", det);
        inverse.a[i] = r.d[i] / det;
        inverse.b[i] = -r.b[i] / det;
        inverse.c[i] = -r.c[i] / det;
        inverse.d[i] = r.a[i] / det;
    }
    return inverse;
}

/// The transpose: mixing dL/dy with its table gives dL/dh.
/// Throws:   invalid_config on malformed blocks.
inline pair_blocks make_transpose(const pair_blocks& r) {
    detail::require_valid("road::make_transpose", r);
    pair_blocks t = r;
    std::swap(t.b, t.c);
    return t;
}

}  // namespace ROPEWALK_NAMESPACE::road

namespace ROPEWALK_NAMESPACE::detail {
inline void require_alike(const char* who, const road::pair_blocks& one, const road::pair_blocks& other) {
    require_valid(who, one);
    require_valid(who, other);
    require_equal(who, "blocks must have the same channels", one.channels(), other.channels());
    require_equal(who, "blocks must have the same group", one.group, other.group);
}
}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// Two adapters in sequence as one: `later` is applied to the output of `earlier`.
/// Throws:   invalid_config when channels or groups differ (then mix twice).
/// Source:   R_later R_earlier, block by block.
inline pair_blocks make_product(const pair_blocks& later, const pair_blocks& earlier) {
    detail::require_alike("road::make_product", later, earlier);
    pair_blocks r = later;
    for (std::size_t i = 0; i < r.a.size(); ++i) {
        r.a[i] = later.a[i] * earlier.a[i] + later.b[i] * earlier.c[i];
        r.b[i] = later.a[i] * earlier.b[i] + later.b[i] * earlier.d[i];
        r.c[i] = later.c[i] * earlier.a[i] + later.d[i] * earlier.c[i];
        r.d[i] = later.c[i] * earlier.b[i] + later.d[i] * earlier.d[i];
    }
    return r;
}

/// Composition on disjoint subsets of pairs: pair i is taken from `yes` where from_yes[i] != 0, else from
/// `no`. Adapters that were learned on disjoint pairs and are the identity on all other pairs commute, and
/// this is their product.
/// Throws:   invalid_config when channels or groups differ, or on a wrong count of flags.
/// Source:   RoAd, section 3.3 (distributed interchange interventions, here on coordinates).
inline pair_blocks select_pairs(std::span<const std::uint8_t> from_yes, const pair_blocks& yes,
                                const pair_blocks& no) {
    detail::require_alike("road::select_pairs", yes, no);
    detail::require_equal("road::select_pairs", "from_yes must hold one flag a pair", yes.pairs(),
                          from_yes.size());
    pair_blocks r = no;
    for (std::size_t i = 0; i < from_yes.size(); ++i) {
        if (!from_yes[i]) continue;
        r.a[i] = yes.a[i];
        r.b[i] = yes.b[i];
        r.c[i] = yes.c[i];
        r.d[i] = yes.d[i];
    }
    return r;
}

/// R as a dense matrix, [channels, channels].
/// Throws:   invalid_config on malformed blocks.
inline Eigen::MatrixXd make_matrix(const pair_blocks& r) {
    detail::require_valid("road::make_matrix", r);
    Eigen::MatrixXd m = Eigen::MatrixXd::Zero(r.channels(), r.channels());
    for (index i = 0; i < r.pairs(); ++i) {
        const index first = r.layout().first(i, r.pairs()), second = r.layout().second(i, r.pairs());
        m(first, first) = r.a[detail::road_at(i)];
        m(first, second) = r.b[detail::road_at(i)];
        m(second, first) = r.c[detail::road_at(i)];
        m(second, second) = r.d[detail::road_at(i)];
    }
    return m;
}

/// W <- R W in place: the layer then computes R (W x + b) at no extra cost, if its bias is merged too.
/// Merging make_inverse(r) undoes it.
/// Shapes:   weight [channels, inputs] of float or double; a bias is a weight of one column.
/// Throws:   invalid_config when the rows are not R's channels.
/// Accuracy: products in f64, one rounding per entry.
/// Source:   peft, Linear.merge and unmerge.
template <class Derived>
void merge(const pair_blocks& r, const Eigen::MatrixBase<Derived>& weight) {
    // Eigen's documented way to accept a Map, a block or a matrix as an output argument.
    auto& w = const_cast<Eigen::MatrixBase<Derived>&>(weight);
    using T = typename Derived::Scalar;
    detail::require_valid("road::merge", r);
    detail::require_equal("road::merge", "weight must have R's channels as rows", r.channels(), w.rows());
    for (index i = 0; i < r.pairs(); ++i) {
        const index first = r.layout().first(i, r.pairs()), second = r.layout().second(i, r.pairs());
        const auto k = detail::road_at(i);
        for (index j = 0; j < w.cols(); ++j) {
            const double x = static_cast<double>(w(first, j)), y = static_cast<double>(w(second, j));
            w(first, j) = static_cast<T>(r.a[k] * x + r.b[k] * y);
            w(second, j) = static_cast<T>(r.c[k] * x + r.d[k] * y);
        }
    }
}

/// A table with one row of mix_pairs factors per R. All must have the same pairing; adapter_bank handles
/// different ones.
/// Shapes:   rows [number of blocks], pairs [channels / 2].
/// Throws:   invalid_config when channels or groups differ.
template <class T = float>
pair_matrix_table<T> make_table(std::span<const pair_blocks> blocks) {
    std::vector<T> parts[4];
    for (const pair_blocks& r : blocks) {
        detail::require_alike("road::make_table", blocks.front(), r);
        const std::vector<double>* from[4] = {&r.a, &r.b, &r.c, &r.d};
        for (std::size_t part = 0; part < 4; ++part)
            for (double v : *from[part]) parts[part].push_back(static_cast<T>(v));
    }
    return {parts[0], parts[1], parts[2], parts[3], blocks.empty() ? 0 : blocks.front().pairs()};
}
template <class T = float>
pair_matrix_table<T> make_table(const pair_blocks& r) {
    return make_table<T>(std::span<const pair_blocks>(&r, 1));
}

/// RoPE after a road_1 adapter as one table: the angle of pair i of head h becomes theta + position * omega,
/// so queries or keys are rotated once. The rows have one entry per head, so q and k each need their own
/// table.
/// Shapes:   the adapter's channels are heads * 2 * spectrum pairs; `layout` is RoPE's.
/// Throws:   invalid_config unless the adapter is road_1, pairs as `layout` does inside a head (its group is
///           the head for half_split, 2 for interleaved), has one alpha for all pairs (it becomes the
///           magnitude), and every token is touched.
/// Accuracy: f64, rounded once.
/// Source:   rotations of a plane commute, and their angles add.
template <class T = float>
rotation_table<T> make_folded_table(const adapter& a, const spectrum& s, const position_ids& positions,
                                    pair_layout layout) {
    constexpr const char* who = "road::make_folded_table";
    const adapter_config& config = a.config();
    const index pairs = s.pairs();
    detail::require(config.variant == variant::road_1, who, "variant must be road_1",
                    static_cast<int>(config.variant));
    detail::require(pairs > 0 && config.channels % (2 * pairs) == 0, who,
                    "channels must be heads * 2 * pairs of the spectrum", config.channels);
    detail::require(layout.fits(pairs) && config.group == layout.group_of(pairs), who,
                    "group must be the layout's own", config.group);
    const index heads = config.channels / (2 * pairs);
    detail::require(s.heads() == 1 || s.heads() == heads, who, "spectrum must have 1 head or the adapter's",
                    s.heads());
    detail::require(positions.all_touched(), who, "positions must touch every token, untouched ones being",
                    "some");
    const double alpha = a.alpha().empty() ? 1.0 : a.alpha().front();
    for (double v : a.alpha()) detail::require_equal(who, "alpha must be one number for all pairs", alpha, v);
    const auto plain = make_rotation_table<double>(s, positions);
    rotation_table<T> folded(plain.row_count(), heads, pairs, alpha * s.magnitude());
    for (index row = 0; row < plain.row_count(); ++row)
        for (index h = 0; h < heads; ++h) {
            const index own = s.heads() == 1 ? 0 : h;
            for (index i = 0; i < pairs; ++i) {
                const double theta = a.theta()[detail::road_at(h * pairs + i)];
                const double c = plain.cos_row(row, own)[detail::road_at(i)],
                             sn = plain.sin_row(row, own)[detail::road_at(i)];
                folded.cos_data(row, h)[i] =
                    static_cast<T>(alpha * (c * std::cos(theta) - sn * std::sin(theta)));
                folded.sin_data(row, h)[i] =
                    static_cast<T>(alpha * (sn * std::cos(theta) + c * std::sin(theta)));
            }
        }
    return folded;
}

}  // namespace ROPEWALK_NAMESPACE::road
