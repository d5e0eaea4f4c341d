// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Seeded numbers for the tests, their conversion to the storage types and back, and how far two results are
// apart. (Views with canaries around them: heads_buffer.hpp.)

#include <cmath>
#include <random>
#include <type_traits>
#include <vector>

#include <ropewalk/core/heads_view.hpp>

namespace support {

namespace rw = ropewalk;

struct spread {
    double centre = 0, width = 1;
};

/// Uniform in (centre - width, centre + width), the same for every standard library.
inline std::vector<double> noise(rw::index count, unsigned seed, spread s = {}) {
    std::mt19937 engine(seed);
    std::vector<double> x(static_cast<std::size_t>(count));
    for (double& v : x) v = s.centre + s.width * (static_cast<double>(engine()) / 2147483648.0 - 1.0);
    return x;
}
/// Rows of noise, each of length 1.
inline std::vector<double> unit_rows(rw::index rows, rw::index channels, unsigned seed) {
    auto x = noise(rows * channels, seed);
    for (auto row = x.begin(); row != x.end(); row += channels) {
        double sum = 0;
        for (auto v = row; v != row + channels; ++v) sum += *v * *v;
        for (auto v = row; v != row + channels; ++v) *v /= std::sqrt(sum);
    }
    return x;
}

/// Rounded to T, through float where T is not double.
template <class T>
std::vector<T> as(const std::vector<double>& x) {
    std::vector<T> y;
    y.reserve(x.size());
    for (const double v : x) {
        if constexpr (std::is_same_v<T, double>) {
            y.push_back(v);
        } else {
            y.push_back(T(static_cast<float>(v)));
        }
    }
    return y;
}
template <class T>
double widened(const T& x) {
    return static_cast<double>(static_cast<rw::compute_t<T>>(x));
}
template <class T>
std::vector<double> widened(const std::vector<T>& x) {
    std::vector<double> y;
    y.reserve(x.size());
    for (const T& v : x) y.push_back(widened(v));
    return y;
}

/// The largest difference; infinite when the sizes differ, NaN when one is among the differences.
template <class A, class B>
double worst(const std::vector<A>& a, const std::vector<B>& b) {
    if (a.size() != b.size()) return HUGE_VAL;
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double off = std::abs(widened(a[i]) - widened(b[i]));
        most = off <= most || std::isnan(most) ? most : off;
    }
    return most;
}

}  // namespace support
