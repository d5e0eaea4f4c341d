// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <ropewalk/core/heads_view.hpp>

// Numbers for the tests of path/.
namespace path_inputs {

namespace rw = ropewalk;

/// Uniform in (centre - 1, centre + 1).
inline std::vector<double> noise(rw::index count, unsigned seed, double centre = 0) {
    std::mt19937 engine(seed);
    std::vector<double> x(static_cast<std::size_t>(count));
    for (double& v : x) v = centre + static_cast<double>(engine()) / 2147483648.0 - 1.0;
    return x;
}
inline std::vector<double> unit_rows(rw::index rows, rw::index channels, unsigned seed) {
    auto x = noise(rows * channels, seed);
    for (rw::index r = 0; r < rows; ++r) {
        double sum = 0;
        for (rw::index c = 0; c < channels; ++c)
            sum += std::pow(x[static_cast<std::size_t>(r * channels + c)], 2);
        for (rw::index c = 0; c < channels; ++c)
            x[static_cast<std::size_t>(r * channels + c)] /= std::sqrt(sum);
    }
    return x;
}
template <class T>
std::vector<T> as(const std::vector<double>& x) {
    std::vector<T> y;
    for (double v : x) {
        if constexpr (std::is_same_v<T, double>) {
            y.push_back(v);
        } else {
            y.push_back(T(static_cast<float>(v)));
        }
    }
    return y;
}
template <class T>
std::vector<double> widened(const std::vector<T>& x) {
    std::vector<double> y;
    for (const T& v : x) y.push_back(static_cast<double>(static_cast<rw::compute_t<T>>(v)));
    return y;
}
inline double worst(const std::vector<double>& a, const std::vector<double>& b) {
    double most = a.size() == b.size() ? 0 : HUGE_VAL;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        const double off = std::abs(a[i] - b[i]);
        most = off <= most ? most : off;  // NaN gets through
    }
    return most;
}
template <class F>
std::string refusal(F&& f) {
    try {
        f();
    } catch (const rw::invalid_config& e) {
        return e.what();
    }
    return "";
}

}  // namespace path_inputs
