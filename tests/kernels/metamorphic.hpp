// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

// What the metamorphic checks run over: every dtype, pair layout and shape, with the documented bounds.

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/support/budgets.hpp"
#include "tests/support/catch.hpp"

namespace metamorphic {

namespace rw = ropewalk;
using rw::heads_shape;
using rw::heads_view;
using rw::index;
using rw::pair_layout;

template <class T>
double wide(T v) {
    return static_cast<double>(static_cast<rw::compute_t<T>>(v));
}

template <class T>
struct tensor {
    heads_shape shape;
    std::vector<T> values;

    explicit tensor(heads_shape s)
        : shape(s), values(static_cast<std::size_t>(s.batches * s.tokens * s.heads * s.channels)) {}
    heads_view<T> view() { return {values.data(), shape}; }
    bool operator==(const tensor& other) const {
        return values.size() == other.values.size() &&
               std::memcmp(values.data(), other.values.data(), values.size() * sizeof(T)) == 0;
    }
};

template <class T>
tensor<T> random_tensor(heads_shape shape, unsigned seed) {
    tensor<T> t(shape);
    std::mt19937 engine(seed);
    for (T& v : t.values) {
        // In [-2, 2) and not by std::uniform_real_distribution, whose numbers depend on the library.
        const double u = static_cast<double>(engine()) / 1073741824.0 - 2.0;
        v = static_cast<T>(static_cast<rw::compute_t<T>>(u));
    }
    return t;
}

/// |error| of one pair over its norm, rotation by the kernel alone. A budget per channel at norm 1 bounds the
/// ratio at any norm; storage rounds each channel by its own size, arithmetic by the norm.
template <class T>
double kernel_bound() {
    const double storage = budgets::storage_rounding<T>(1);
    return std::sqrt(2.0) * (budgets::rotation<T>(1, 1) - storage) + storage;
}
/// The same with the table's own error, at angles up to `angle` radians.
template <class T>
double turn_bound(double angle) {
    const double table = std::is_same_v<T, double> ? budgets::table_f64(angle) : budgets::table_f32(1, angle);
    return kernel_bound<T>() + std::sqrt(2.0) * table;
}

struct subject {
    pair_layout layout;
    heads_shape shape;
    index pairs = 0;
};

/// Calls check(T{}, subject) for every dtype, layout and shape.
template <class F>
void for_each_subject(F&& check) {
    const heads_shape extents[] = {{1, 1, 1, 0}, {1, 5, 3, 0}, {2, 3, 2, 0}};
    for (index pairs : {1, 2, 3, 4, 7, 8, 9, 16, 17, 32, 33, 64})
        for (pair_layout layout : {pair_layout(rw::half_split{}), pair_layout(rw::interleaved{}),
                                   pair_layout(rw::blocked<4>{}), pair_layout(rw::blocked<16>{})}) {
            if (!layout.fits(pairs)) continue;
            for (heads_shape shape : extents) {
                shape.channels = 2 * pairs;
                const subject s{layout, shape, pairs};
                INFO("layout " << static_cast<int>(layout.kind) << "/" << layout.group << ", pairs " << pairs
                               << ", batches " << shape.batches << ", tokens " << shape.tokens);
                {
                    INFO("f64");
                    check(double{}, s);
                }
                {
                    INFO("f32");
                    check(float{}, s);
                }
                {
                    INFO("f16");
                    check(rw::f16{}, s);
                }
                {
                    INFO("bf16");
                    check(rw::bf16{}, s);
                }
            }
        }
}

inline rw::spectrum ladder(index pairs, double magnitude = 1) {
    return rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(magnitude);
}

/// A position a (batch, token): none special, zero, negative, fractional, large.
inline std::vector<double> positions_for(heads_shape shape, double shift = 0) {
    const double some[] = {0, 7, -3, 1048576, 0.5, 12345.75, 1};
    std::vector<double> all;
    for (index n = 0; n < shape.batches * shape.tokens; ++n) all.push_back(some[(n + 1) % 7] + shift);
    return all;
}
inline constexpr double largest_angle = 1048576;  // omega 0 is 1 radian a token

template <class T>
rw::rotation_table<rw::compute_t<T>> table_at(const rw::spectrum& s, const std::vector<double>& positions) {
    return rw::make_rotation_table<rw::compute_t<T>>(s, rw::position_ids::from(positions));
}

/// Largest |a - factor b| of a pair over the norm of the same pair of `reference`.
template <class T>
double worst_pair_error(const subject& s, tensor<T>& a, tensor<T>& b, tensor<T>& reference,
                        double factor = 1) {
    double worst = 0;
    for (index batch = 0; batch < s.shape.batches; ++batch)
        for (index n = 0; n < s.shape.tokens; ++n)
            for (index h = 0; h < s.shape.heads; ++h)
                for (index i = 0; i < s.pairs; ++i) {
                    const index u = s.layout.first(i, s.pairs), v = s.layout.second(i, s.pairs);
                    const T* x = a.view().at(batch, n, h);
                    const T* y = b.view().at(batch, n, h);
                    const T* r = reference.view().at(batch, n, h);
                    const double error =
                        std::hypot(wide(x[u]) - factor * wide(y[u]), wide(x[v]) - factor * wide(y[v]));
                    worst = std::max(worst, error / std::hypot(wide(r[u]), wide(r[v])));
                }
    return worst;
}

/// Dot product of two heads in f64.
template <class T>
double dot(const T* a, const T* b, index channels) {
    double sum = 0;
    for (index c = 0; c < channels; ++c) sum += wide(a[c]) * wide(b[c]);
    return sum;
}

}  // namespace metamorphic
