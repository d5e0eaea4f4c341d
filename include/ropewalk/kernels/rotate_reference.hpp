// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The specification of rotate: plain f64 loops, against which every kernel is tested.
#pragma once

#include <vector>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE {

/// The specification: plain loops in f64 over any view, with one rounding at the end. Every kernel of this
/// library is tested against it; read it to learn what a kernel computes.
/// Shapes: x [batches, tokens, heads, 2 * pairs] in place; rows with tables of type C.
/// Source: RoFormer, Su et al. 2021, eq. 34.
template <class T, class C>
void rotate_reference(pair_layout layout, heads_view<T> x, rows_view<C> rows) {
    using stored = stored_t<T>;
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n) {
            const index row = rows.row(b * x.tokens() + n);
            if (row < 0) continue;
            for (index h = 0; h < x.heads(); ++h) {
                auto* head = reinterpret_cast<stored*>(x.at(b, n, h));
                for (index i = 0; i < rows.pairs; ++i) {
                    stored& first = head[layout.first(i, rows.pairs)];
                    stored& second = head[layout.second(i, rows.pairs)];
                    const auto u = static_cast<double>(static_cast<compute_t<T>>(first));
                    const auto v = static_cast<double>(static_cast<compute_t<T>>(second));
                    const auto c = static_cast<double>(rows.cos_at(row, h)[i]);
                    const auto s = static_cast<double>(rows.sin_at(row, h)[i]);
                    first = static_cast<stored>(static_cast<compute_t<T>>(u * c - v * s));
                    second = static_cast<stored>(static_cast<compute_t<T>>(u * s + v * c));
                }
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE
