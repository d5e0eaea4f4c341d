// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/models/weight_layout.hpp>

namespace ROPEWALK_NAMESPACE::phase_shift {

/// The two dense matrices a head has: up and down, [heads, in, out] row-major as the official code stores
/// them (up_phase, down_phase). Queries and keys have a module each; that of k has the key heads.
/// Source: WNQzhu/PSC PSC_code/lora_llama.py class Phase.
template <class C>
struct parameters {
    index heads = 0;
    index head_dim = 0;
    std::vector<C> up = {};    ///< [heads, head_dim, head_dim], row-major
    std::vector<C> down = {};  ///< [heads, head_dim, head_dim], row-major
};

}  // namespace ROPEWALK_NAMESPACE::phase_shift

namespace ROPEWALK_NAMESPACE::detail {

template <class C>
void require_phase(const char* function, const phase_shift::parameters<C>& p, index heads, index channels) {
    require(p.head_dim == channels, function, "head_dim must be the channels of x", p.head_dim);
    require(p.heads == heads, function, "heads must be the heads of x", p.heads);
    const auto count = static_cast<std::size_t>(checked_product(
        function, "heads x head_dim x head_dim must be >= 0", {p.heads, p.head_dim, p.head_dim}));
    require(p.up.size() == count, function, "up must hold heads x head_dim x head_dim numbers", p.up.size());
    require(p.down.size() == count, function, "down must hold heads x head_dim x head_dim numbers",
            p.down.size());
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::phase_shift {

/// Parameters that change nothing yet: up is zero, down uniform in (-1/head_dim, 1/head_dim), which is what
/// the official initialisation of a [heads, d, d] tensor comes to.
/// Throws: invalid_config on sizes that do not fit.
/// Source: WNQzhu/PSC PSC_code/lora_llama.py class Phase.
template <class C = float>
parameters<C> make_initial(index heads, index head_dim, std::uint64_t seed = 0) {
    detail::require(heads >= 0, "phase_shift::make_initial", "heads must be >= 0", heads);
    detail::require(head_dim >= 1, "phase_shift::make_initial", "head_dim must be >= 1", head_dim);
    const auto count = static_cast<std::size_t>(
        detail::checked_product("phase_shift::make_initial", "heads x head_dim x head_dim must be >= 0",
                                {heads, head_dim, head_dim}));
    parameters<C> p{
        .heads = heads, .head_dim = head_dim, .up = std::vector<C>(count), .down = std::vector<C>(count)};
    std::mt19937_64 random(seed);
    const double bound = 1.0 / static_cast<double>(head_dim);
    std::uniform_real_distribution<double> uniform(-bound, bound);
    for (C& w : p.down) w = static_cast<C>(uniform(random));
    return p;
}

/// The same module for data in another pair layout: the rows of up and the columns of down move with the
/// channels. (Weights are trained for half_split, the layout of Hugging Face's Llama.)
/// Throws: invalid_config on sizes that do not fit the layouts, or numbers that are not heads x head_dim x
///         head_dim.
/// Source: derived: x' = x (1 + tanh(g)/2) commutes with a permutation of x, up's rows and down's columns.
template <class C>
parameters<C> make_in_layout(const parameters<C>& p, pair_layout from, pair_layout to, index rotary_dim = 0) {
    detail::require_phase("phase_shift::make_in_layout", p, p.heads, p.head_dim);
    const auto order = make_channel_order(
        {.heads = 1, .head_dim = p.head_dim, .rotary_dim = rotary_dim != 0 ? rotary_dim : p.head_dim}, from,
        to);
    parameters<C> moved = p;
    const index d = p.head_dim;
    for (index h = 0; h < p.heads; ++h)
        for (index a = 0; a < d; ++a)
            for (index b = 0; b < d; ++b) {
                const auto source = order[static_cast<std::size_t>(a)];
                moved.up[static_cast<std::size_t>((h * d + a) * d + b)] =
                    p.up[static_cast<std::size_t>((h * d + source) * d + b)];
                moved.down[static_cast<std::size_t>((h * d + b) * d + a)] =
                    p.down[static_cast<std::size_t>((h * d + b) * d + source)];
            }
    return moved;
}

}  // namespace ROPEWALK_NAMESPACE::phase_shift

namespace ROPEWALK_NAMESPACE::detail {

template <class C>
using phase_matrix = Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Tokens [first, first + rows) of one head, read into a matrix; and back.
template <class C, class T>
void gather(heads_view<T> x, index b, index h, index first, phase_matrix<C>& into) {
    for (index n = 0; n < into.rows(); ++n)
        for (index c = 0; c < into.cols(); ++c)
            into(n, c) = static_cast<C>(static_cast<typename dtype<T>::compute>(x.at(b, first + n, h)[c]));
}

/// a = silu(x up), g = a down, for a block of tokens of one head.
template <class C>
struct phase_pass {
    phase_matrix<C> x, t, a, g;

    void run(const phase_shift::parameters<C>& p, index h) {
        const index d = p.head_dim;
        const Eigen::Map<const phase_matrix<C>> up(p.up.data() + h * d * d, d, d);
        const Eigen::Map<const phase_matrix<C>> down(p.down.data() + h * d * d, d, d);
        t.noalias() = x * up;
        a = t.unaryExpr([](C v) { return v / (C(1) + std::exp(-v)); });
        g.noalias() = a * down;
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::phase_shift {

/// Phase Shift Calibration: x <- x (1 + tanh(silu(x up) down) / 2), head by head, in place, BEFORE the
/// rotation (calibrate q and k, then rotate them with the tables of the scaling in use). A learned gain in
/// (0.5, 1.5) a channel that corrects a frequency set that was fixed beforehand; it sees no position.
/// Shapes:   x [batches, tokens, heads, head_dim], any strides, f64 f32 f16 bf16; p of its heads.
/// Requires: C double for f64 data, float otherwise.
/// Throws:   invalid_config when the heads or channels of x are not those of p.
/// Cost:     4 head_dim^2 operations a head and token, as two matrix products over blocks of tokens.
/// Accuracy: arithmetic in C, rounded once to the storage type.
/// Source:   PSC, Zhu et al. 2024; WNQzhu/PSC PSC_code/lora_llama.py.
template <class T, class C>
void calibrate(const parameters<C>& p, heads_view<T> x) {
    static_assert(std::is_same_v<C, typename dtype<T>::compute>,
                  "parameters: double for f64, float otherwise");
    detail::require_phase("phase_shift::calibrate", p, x.heads(), x.channels());
    constexpr index block = 64;
    detail::phase_pass<C> pass;
    for (index b = 0; b < x.batches(); ++b)
        for (index h = 0; h < x.heads(); ++h)
            for (index first = 0; first < x.tokens(); first += block) {
                pass.x.resize(std::min(block, x.tokens() - first), x.channels());
                detail::gather(x, b, h, first, pass.x);
                pass.run(p, h);
                for (index n = 0; n < pass.x.rows(); ++n)
                    for (index c = 0; c < pass.x.cols(); ++c)
                        x.at(b, first + n, h)[c] =
                            static_cast<T>(pass.x(n, c) * (C(1) + std::tanh(pass.g(n, c)) / 2));
            }
}

/// The gradients of a loss through calibrate: with respect to its input (written over `gradient`, which
/// holds those of its output) and to the parameters (added to `of_parameters`).
/// Shapes:   x the input of calibrate, gradient like it.
/// Requires: T double or float; of_parameters sized like p.
/// Throws:   invalid_config when sizes disagree.
/// Source:   derived from calibrate by the chain rule.
template <class T>
void backpropagate(const parameters<T>& p, heads_view<const T> x, heads_view<T> gradient,
                   parameters<T>& of_parameters) {
    constexpr const char* who = "phase_shift::backpropagate";
    detail::require_phase(who, p, x.heads(), x.channels());
    detail::require_phase(who, of_parameters, x.heads(), x.channels());
    detail::require(gradient.tokens() == x.tokens() && gradient.batches() == x.batches() &&
                        gradient.heads() == x.heads() && gradient.channels() == x.channels(),
                    who, "gradient must have the shape of x", gradient.tokens());
    using matrix = detail::phase_matrix<T>;
    const index d = p.head_dim;
    detail::phase_pass<T> pass;
    matrix incoming(x.tokens(), d);
    pass.x.resize(x.tokens(), d);
    for (index b = 0; b < x.batches(); ++b)
        for (index h = 0; h < x.heads(); ++h) {
            const Eigen::Map<const matrix> up(p.up.data() + h * d * d, d, d);
            const Eigen::Map<const matrix> down(p.down.data() + h * d * d, d, d);
            Eigen::Map<matrix> of_up(of_parameters.up.data() + h * d * d, d, d);
            Eigen::Map<matrix> of_down(of_parameters.down.data() + h * d * d, d, d);
            detail::gather(x, b, h, 0, pass.x);
            detail::gather(gradient, b, h, 0, incoming);
            pass.run(p, h);
            const matrix bend = pass.g.unaryExpr([](T g) { return std::tanh(g); });
            const matrix of_g = incoming.array() * pass.x.array() * (1 - bend.array().square()) / 2;
            of_down.noalias() += pass.a.transpose() * of_g;
            const matrix slope = pass.t.unaryExpr([](T t) {
                const T sigmoid = 1 / (1 + std::exp(-t));
                return sigmoid * (1 + t * (1 - sigmoid));
            });
            const matrix of_t = (of_g * down.transpose()).array() * slope.array();
            of_up.noalias() += pass.x.transpose() * of_t;
            const matrix of_x = (incoming.array() * (1 + bend.array() / 2)).matrix() + of_t * up.transpose();
            for (index n = 0; n < x.tokens(); ++n)
                for (index c = 0; c < d; ++c) gradient.at(b, n, h)[c] = of_x(n, c);
        }
}

}  // namespace ROPEWALK_NAMESPACE::phase_shift
