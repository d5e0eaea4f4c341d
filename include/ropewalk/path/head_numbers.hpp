// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// head_numbers: one number per token and head (beta, log gates), contiguous or as a strided view.
#pragma once

#include <concepts>
#include <span>
#include <type_traits>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/heads_view.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// One number per token and head, such as beta and the log gates: contiguous numbers, or a view with one
/// channel and any strides ([batches, heads, tokens] tensors, a column of a wider projection).
/// Shapes:   [batches, tokens, heads]. A view has these extents and one channel. Default: not given.
///
///     attend(q, k, v, w, beta, out);                                    // std::vector<float> beta
///     attend(q, k, v, w, heads_view(beta, tokens, heads, 1), out);
template <class T>
class head_numbers {
  public:
    head_numbers() = default;
    /// A view with one channel.
    template <class E>
    requires(std::is_same_v<const E, const T>) head_numbers(heads_view<E> x)
    noexcept : view_(x), kind_(kind::view) {}
    /// Contiguous numbers, whose extents are given where they are used.
    template <class Range>
    requires(std::convertible_to<const Range&, std::span<const T>>) head_numbers(const Range& packed)
    noexcept {
        const std::span<const T> numbers = packed;
        if (numbers.empty()) return;
        view_ = {numbers.data(), 1, static_cast<index>(numbers.size()), 1};
        kind_ = kind::packed;
    }

    /// Whether there are none.
    bool empty() const noexcept { return kind_ == kind::none || view_.empty(); }
    /// The number of elements.
    index size() const noexcept {
        const heads_shape& x = view_.shape;
        return empty() ? 0 : x.batches * x.tokens * x.heads * x.channels;
    }
    /// Whether they are [batches, tokens, heads].
    bool fits(index batches, index tokens, index heads) const noexcept {
        const heads_shape& x = view_.shape;
        if (kind_ != kind::view) return size() == batches * tokens * heads;
        return x.batches == batches && x.tokens == tokens && x.heads == heads && x.channels == 1;
    }
    /// As a view. Requires: fits.
    heads_view<const T> view(index batches, index tokens, index heads) const noexcept {
        if (kind_ == kind::view) return view_;
        return {view_.data, heads_shape{batches, tokens, heads, 1}};
    }

  private:
    enum class kind { none, packed, view };
    heads_view<const T> view_{};
    kind kind_ = kind::none;
};

}  // namespace ROPEWALK_NAMESPACE::path
