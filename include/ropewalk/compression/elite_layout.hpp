// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The channel layout of heads of which only the elite pairs rotate (EliteKV), and its permutation of weights.
#pragma once

#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/compression/elite_pairs.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// The layout of a head of which only the elite pairs rotate: [first channels, second channels of the other
/// pairs | first channels, second channels of the elite pairs], with pairs ascending in both parts. The
/// rotated slice is thus at the end and is half-split by itself. The rows of W_q and W_k are permuted when a
/// model is loaded, so that the projections have this layout; nothing is moved at run time.
/// Throws:   invalid_config when a pair is out of range or named twice, lists differ in length, or the
///           original layout of the channels does not fit.
/// Source:   CiaranZhou/EliteKV convert/convert.py; modeling_llama_EliteKV.py, the sdpa path.
class elite_layout {
  public:
    /// elite [heads, count]: the pairs of every kv head that rotate.
    elite_layout(std::span<const index> elite, index heads, index head_dim, pair_layout from = half_split{})
        : heads_(heads), head_dim_(head_dim), pairs_(elite.begin(), elite.end()) {
        constexpr const char* who = "elite_layout";
        const auto total = static_cast<index>(elite.size());
        detail::require(heads >= 1, who, "heads must be >= 1", heads);
        detail::require(head_dim >= 2 && head_dim % 2 == 0, who, "head_dim must be even and > 0", head_dim);
        detail::require(total % heads == 0, who, "elite must hold heads * count pairs", total);
        const index all = head_dim / 2;
        count_ = total / heads;
        detail::require(count_ <= all, who, "elite must name at most head_dim / 2 pairs a head", count_);
        detail::require(from.fits(all), who, "layout must divide the channels", from.group);
        for (index h = 0; h < heads; ++h) {
            const auto first = pairs_.begin() + h * count_, last = first + count_;
            std::sort(first, last);
            std::vector<index> order;
            std::vector<std::uint8_t> turns(static_cast<std::size_t>(all), 0);
            for (auto p = first; p != last; ++p) {
                detail::require(*p >= 0 && *p < all, who, "elite must name pairs of the head", *p);
                detail::require(turns[static_cast<std::size_t>(*p)] == 0, who, "elite must name a pair once",
                                *p);
                turns[static_cast<std::size_t>(*p)] = 1;
            }
            for (const std::uint8_t part : {std::uint8_t{0}, std::uint8_t{1}})
                for (const bool second : {false, true})
                    for (index i = 0; i < all; ++i)
                        if (turns[static_cast<std::size_t>(i)] == part)
                            channels_.push_back(second ? from.second(i, all) : from.first(i, all));
        }
    }

    index heads() const noexcept { return heads_; }
    index head_dim() const noexcept { return head_dim_; }
    /// r, the pairs of a head that rotate.
    index count() const noexcept { return count_; }
    /// Channels of a head that rotate.
    index rope_channels() const noexcept { return 2 * count_; }
    /// Channels of a head that do not rotate.
    index nope_channels() const noexcept { return head_dim_ - 2 * count_; }
    /// [heads, count], ascending in each head.
    std::span<const index> pairs() const noexcept { return pairs_; }
    /// The original channel of packed channel c of a kv head.
    index channel(index kv_head, index c) const noexcept {
        return channels_[static_cast<std::size_t>(kv_head * head_dim_ + c)];
    }

    /// The scheme of packed heads: per-head frequencies over the last rope_channels. `heads` is a multiple of
    /// the layout's heads; query heads use the pairs of their kv head, so q and k of a grouped-query model
    /// each need a table. Without elite pairs it rotates nothing.
    /// Throws: invalid_config when heads is not a multiple or omega does not have head_dim / 2 pairs.
    rotary_scheme scheme(const spectrum& omega, index heads) const {
        detail::require(heads >= 1 && heads % heads_ == 0, "elite_layout::scheme",
                        "heads must be a multiple of the kv heads", heads);
        detail::require(2 * omega.pairs() == head_dim_, "elite_layout::scheme",
                        "omega must have head_dim / 2 pairs", omega.pairs());
        if (count_ == 0) {  // nothing rotates: a NoPE layer
            rotary_scheme none;
            none.name = "elite";
            none.head_dim = none.first_channel = head_dim_;
            none.rotates = false;
            return none;
        }
        std::vector<index> each;
        for (index h = 0; h < heads; ++h) {
            const auto first = pairs_.begin() + h / (heads / heads_) * count_;
            each.insert(each.end(), first, first + count_);
        }
        return make_fixed_scheme({.name = "elite", .head_dim = head_dim_, .first_channel = nope_channels()},
                                 frequencies::select_pairs(omega, each, heads));
    }

    /// Rows of W_q or W_k, [heads * head_dim, in] for any multiple of the kv heads, in packed order.
    /// Throws: invalid_config when the rows are not a multiple of kv heads * head_dim.
    template <class Matrix>
    Matrix packed_rows(const Matrix& weight) const {
        const index rows = weight.rows(), each = heads_ * head_dim_;
        detail::require(rows > 0 && rows % each == 0, "elite_layout::packed_rows",
                        "weight must have a multiple of kv heads * head_dim rows", rows);
        Matrix out(weight.rows(), weight.cols());
        const index group = rows / each;
        for (index h = 0; h < heads_ * group; ++h)
            for (index c = 0; c < head_dim_; ++c)
                out.row(h * head_dim_ + c) = weight.row(h * head_dim_ + channel(h / group, c));
        return out;
    }

    /// The same permutation for vectors.
    /// Shapes:   from and to [batches, tokens, heads, head_dim]; they must not overlap.
    /// Throws:   invalid_config on extents that disagree.
    template <class S, class D>
    void fill_packed(heads_view<S> from, heads_view<D> to) const {
        constexpr const char* who = "elite_layout::fill_packed";
        detail::require_readable(who, "from", from);
        detail::require_writable(who, "to", to);
        detail::require(from.channels() == head_dim_ && to.channels() == head_dim_, who,
                        "views must have head_dim channels", from.channels());
        detail::require(from.heads() % heads_ == 0 && to.heads() == from.heads(), who,
                        "heads must be a multiple of the kv heads and the same", from.heads());
        detail::require(from.batches() == to.batches() && from.tokens() == to.tokens(), who,
                        "views must have the same tokens", to.tokens());
        const index group = from.heads() / heads_;
        for (index b = 0; b < from.batches(); ++b)
            for (index n = 0; n < from.tokens(); ++n)
                for (index h = 0; h < from.heads(); ++h) {
                    const auto* x = reinterpret_cast<const stored_t<S>*>(from.at(b, n, h));
                    auto* y = reinterpret_cast<stored_t<D>*>(to.at(b, n, h));
                    for (index c = 0; c < head_dim_; ++c)
                        y[c] = stored_t<D>(
                            static_cast<compute_t<D>>(static_cast<compute_t<S>>(x[channel(h / group, c)])));
                }
    }

  private:
    index heads_, head_dim_, count_ = 0;
    std::vector<index> pairs_, channels_;
};

}  // namespace ROPEWALK_NAMESPACE
