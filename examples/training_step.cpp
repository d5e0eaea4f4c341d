// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Training through a rotation with learned 2-D frequencies (RoPE-Mixed): a layer learns to attend to near
// patches. All gradients (queries, keys and frequencies) are first compared with central differences.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <span>

#include <Eigen/Core>
#include <ropewalk/kernels/frequency_gradient.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rope_vit.hpp>

namespace rw = ropewalk;

constexpr rw::index side = 5, tokens = side * side, heads = 2, dim = 16, each = tokens * heads * dim;
constexpr rw::half_split layout;
const rw::frequencies::mixed_config config{.heads = heads, .pairs = dim / 2};
const rw::position_ids patches = rw::rope_vit::patches({.height = side, .width = side, .class_tokens = 0});

/// Parameters: [queries | keys | weights of the frequencies]; a gradient has the same order.
using parameters = std::vector<double>;
using matrix = Eigen::Matrix<double, tokens, dim, Eigen::RowMajor>;
using scores = Eigen::Matrix<double, tokens, tokens>;
const scores bump = scores::NullaryExpr([](rw::index n, rw::index m) {
    return std::exp(-std::pow(n / side - m / side, 2) - std::pow(n % side - m % side, 2));
});

auto q_of(parameters& p) { return rw::heads_view(p.data(), tokens, heads, dim); }
auto k_of(parameters& p) { return rw::heads_view(p.data() + each, tokens, heads, dim); }
auto weights_of(parameters& p) { return std::span(p).subspan(2 * each); }
auto head(rw::heads_view<double> x, rw::index h) {
    return Eigen::Map<matrix, 0, Eigen::OuterStride<heads * dim>>(x.at(0, 0, h));
}

/// Half the squared distance of all scores from a peak at the near patches, and its gradient.
double loss(parameters p, parameters& gradient) {
    const auto omega = rw::frequencies::mixed<double>(config, weights_of(p));
    const auto table = rw::make_rotation_table<double>(omega, patches);
    const auto q = q_of(p), k = k_of(p), dq = q_of(gradient), dk = k_of(gradient);
    rw::rotate(layout, q, k, table);
    double sum = 0;
    for (rw::index h = 0; h < heads; ++h) {
        const scores off = head(q, h) * head(k, h).transpose() - bump;
        head(dq, h) = off * head(k, h);
        head(dk, h) = off.transpose() * head(q, h);
        sum += off.squaredNorm() / 2;
    }
    std::ranges::fill(weights_of(gradient), 0.0);
    rw::accumulate_frequency_gradient(layout, q, dq, patches, config, weights_of(gradient));
    rw::accumulate_frequency_gradient(layout, k, dk, patches, config, weights_of(gradient));
    rw::rotate_gradient(layout, dq, dk, table);
    return sum;
}

int main() {
    std::mt19937 engine(3);
    parameters p(2 * each);
    for (double& x : p) x = std::normal_distribution<double>(0, 0.3)(engine);
    const auto start = rw::frequencies::make_mixed_start({.head_dim = dim}, heads, engine);
    p.insert(p.end(), start.begin(), start.end());
    auto gradient = p, unused = p;
    double before = loss(p, gradient), after = before, worst = 0, largest = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
        auto up = p, down = p;
        up[i] += 1e-5, down[i] -= 1e-5;
        const double numeric = (loss(up, unused) - loss(down, unused)) / 2e-5;
        worst = std::max(worst, std::abs(numeric - gradient[i]));
        largest = std::max(largest, std::abs(numeric));
    }
    for (int step = 0; step < 300; ++step, after = loss(p, gradient))
        for (std::size_t i = 0; i < p.size(); ++i) p[i] -= 0.01 * gradient[i];
    std::printf(
        "%zu gradients, %zu of frequencies, off by at most %.1e of the largest; loss %.1f, after 300 steps "
        "%.1f\n",
        p.size(), start.size(), worst / largest, before, after);
    return worst < 1e-7 * largest && after < 0.1 * before ? 0 : 1;
}
