// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// A rotation in long double from the very table a kernel reads: one type wider than any kernel.

#include <cmath>
#include <vector>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

#include "budgets.hpp"

namespace support {

namespace rw = ropewalk;

struct expected_head {
    std::vector<double> value;  // of each channel
    std::vector<double> norm;   // of the pair a channel belongs to
};

/// What one head must hold after rotation, from the numbers it held before.
template <class C>
expected_head rotated_head(rw::pair_layout layout, const std::vector<double>& before, const C* cos,
                           const C* sin) {
    const auto pairs = static_cast<rw::index>(before.size() / 2);
    expected_head out{before, before};
    for (rw::index i = 0; i < pairs; ++i) {
        const auto u = static_cast<std::size_t>(layout.first(i, pairs));
        const auto v = static_cast<std::size_t>(layout.second(i, pairs));
        const long double x = before[u], y = before[v], c = cos[i], s = sin[i];
        out.value[u] = static_cast<double>(x * c - y * s);
        out.value[v] = static_cast<double>(x * s + y * c);
        out.norm[u] = out.norm[v] = static_cast<double>(std::sqrt((x * x + y * y) * (c * c + s * s)));
    }
    return out;
}

/// The largest error of a whole view over its budget; at most 1 when every output keeps its promise.
/// Untouched tokens must hold what they held before (any change counts as infinite).
template <class T, class C>
double worst_over_budget(rw::pair_layout layout, rw::heads_view<T> after, const std::vector<double>& before,
                         rw::rows_view<C> rows) {
    double worst = 0;
    std::size_t at = 0;
    for (rw::index b = 0; b < after.batches(); ++b)
        for (rw::index n = 0; n < after.tokens(); ++n)
            for (rw::index h = 0; h < after.heads(); ++h) {
                const auto end = at + static_cast<std::size_t>(after.channels());
                const std::vector<double> head(before.begin() + static_cast<std::ptrdiff_t>(at),
                                               before.begin() + static_cast<std::ptrdiff_t>(end));
                const rw::index row = rows.row(b * after.tokens() + n);
                const auto want = row < 0
                                      ? expected_head{head, std::vector<double>(head.size())}
                                      : rotated_head(layout, head, rows.cos_at(row, h), rows.sin_at(row, h));
                for (std::size_t i = 0; i < head.size(); ++i) {
                    const auto got = static_cast<double>(static_cast<rw::compute_t<T>>(after.at(b, n, h)[i]));
                    const double error = std::abs(got - want.value[i]);
                    const double budget = row < 0 ? 0 : budgets::rotation<T>(want.norm[i], want.value[i]);
                    if (!(error <= budget)) worst = std::max(worst, budget > 0 ? error / budget : INFINITY);
                    if (error > 0 && budget > 0) worst = std::max(worst, error / budget);
                }
                at = end;
            }
    return worst;
}

}  // namespace support
