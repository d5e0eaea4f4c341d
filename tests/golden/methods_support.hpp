// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

// What the handlers of the methods topic share.

#include <ropewalk/attention/exact.hpp>

#include "runner.hpp"

namespace golden {

/// The same output in f64 and, one call later, in f32; `scale` is max|x| of what went in.
template <class T, class R>
void check_in(results& out, const std::string& name, const shape_type& shape, const R& values, double scale) {
    if constexpr (std::is_same_v<T, double>) {
        out.check(name, shape, values);
    } else {
        out.check_f32(name, shape, values, scale);
    }
}

/// Calls run(double{}) and run(float{}).
template <class F>
void in_both(F&& run) {
    run(double{});
    run(float{});
}

/// scale * q . k for every query and key, [heads, Lq, Lk].
template <class T>
std::vector<T> scores_of(heads_view<T> q, heads_view<T> k, double scale = 1) {
    std::vector<T> scores(static_cast<std::size_t>(q.heads() * q.tokens() * k.tokens()));
    std::vector<T> sums(static_cast<std::size_t>(q.tokens() * q.heads() * k.channels()));
    attend(q, k, k, heads_view<T>(sums.data(), q.tokens(), q.heads(), k.channels()),
           {.scale = scale, .scores = scores});
    return scores;
}

}  // namespace golden
