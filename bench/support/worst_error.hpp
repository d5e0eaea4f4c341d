// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// How far a case's results are from the same rotation in f64: the error that stands beside its speed.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/half_types.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace bench {

/// Stored numbers as f64.
template <class T>
std::vector<double> as_f64(const T* numbers, std::size_t count) {
    std::vector<double> out(count);
    for (std::size_t i = 0; i < count; ++i)
        out[i] = static_cast<double>(static_cast<ropewalk::compute_t<T>>(numbers[i]));
    return out;
}

/// Largest difference of `rotated` from `before` rotated in f64, both [tokens, heads, dim] with one row of `exact` a
/// token. NaN where a result is NaN.
inline double worst_error(ropewalk::pair_layout layout, std::vector<double> before,
                          const std::vector<double>& rotated, ropewalk::index heads, ropewalk::index dim,
                          const ropewalk::rotation_table<double>& exact) {
    const auto tokens = static_cast<ropewalk::index>(before.size()) / (heads * dim);
    ropewalk::rotate(layout, ropewalk::heads_view(before.data(), tokens, heads, dim), exact.rows());
    double worst = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
        const double off = std::abs(before[i] - rotated[i]);
        if (!(off <= worst)) worst = off;
    }
    return worst;
}

}  // namespace bench
