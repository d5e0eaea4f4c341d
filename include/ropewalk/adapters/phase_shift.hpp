// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Phase Shift Calibration (PSC): a learned per-channel gain on queries and keys before the rotation.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/attention/tile_product.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/core/simd_exp.hpp>
#include <ropewalk/models/weight_layout.hpp>

namespace ROPEWALK_NAMESPACE::phase_shift {

/// The two dense matrices of every head, up and down, [heads, in, out] row-major as the official code stores
/// them (up_phase, down_phase). Queries and keys each have such a module; that of k has the key heads. C is
/// double, float, bf16 or f16.
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

/// Initial parameters, with which calibrate changes nothing: up is zero, and down is uniform in (-1/head_dim,
/// 1/head_dim), which equals the official initialisation of a [heads, d, d] tensor.
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

/// The same module for data in another pair layout: the rows of up and the columns of down are permuted like
/// the channels. (Weights are trained for half_split, the layout of Hugging Face's Llama.)
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

/// 1 / (1 + exp(-x)).
template <class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> sigmoid(simd::pack<C> x) noexcept {
    using P = simd::pack<C>;
    const P zero = simd::broadcast(C(0)), one = simd::broadcast(C(1));
    const P e = simd::exp_of_negative(zero - simd::absolute(x));
    return simd::choose(x < zero, e, one) / (one + e);
}
template <class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> hyperbolic_tangent(simd::pack<C> x) noexcept {
    using P = simd::pack<C>;
    const P zero = simd::broadcast(C(0)), one = simd::broadcast(C(1));
    const P e = simd::exp_of_negative(simd::broadcast(C(-2)) * simd::absolute(x));
    const P size = (one - e) / (one + e);
    return simd::choose(x < zero, zero - size, size);
}

/// The module of one head on a block of tokens: t = x up, s = sigmoid(t), a = t s, bend = tanh(a down). Rows
/// are whole registers, zero past the head's channels. Weights are read in place, or converted to C first
/// when many tokens use them.
template <class C, class W>
class phase_block {
  public:
    static constexpr index most_rows = 64;
    index dim, wide;  ///< channels, and channels rounded up to whole registers
    aligned_vector<C> x, t, s, a, bend;

    phase_block(index head_dim, index tokens)
        : dim(head_dim),
          wide((head_dim + simd::lanes<C> - 1) / simd::lanes<C> * simd::lanes<C>),
          x(static_cast<std::size_t>(std::min(tokens, most_rows) * wide)),
          t(x.size()),
          s(x.size()),
          a(x.size()),
          bend(x.size()),
          widens_(tokens >= enough_to_widen && (!std::is_same_v<C, W> || dim != wide)),
          widened_(static_cast<std::size_t>(widens_ ? 2 * dim * wide : 0)) {}

    void load_head(const phase_shift::parameters<W>& p, index h) noexcept {
        up_ = reinterpret_cast<const stored_t<W>*>(p.up.data()) + h * dim * dim;
        down_ = reinterpret_cast<const stored_t<W>*>(p.down.data()) + h * dim * dim;
        for (index row = 0; row < dim && widens_; ++row) {
            copy(up_ + row * dim, widened_.data() + row * wide);
            copy(down_ + row * dim, widened_.data() + (dim + row) * wide);
        }
    }
    /// Tokens [first, first + rows) of a head.
    template <class T>
    void read(heads_view<T> from, index b, index h, index first, index rows, aligned_vector<C>& to) noexcept {
        for (index n = 0; n < rows; ++n)
            copy(reinterpret_cast<const stored_t<T>*>(from.at(b, first + n, h)), to.data() + n * wide);
    }
    template <class T>
    void write(const aligned_vector<C>& from, heads_view<T> to, index b, index h, index first,
               index rows) noexcept {
        for (index n = 0; n < rows; ++n)
            copy(from.data() + n * wide, reinterpret_cast<stored_t<T>*>(to.at(b, first + n, h)));
    }
    void run(index rows) noexcept {
        product(rows, x, up_, 0, t);
        each(rows, [](index i, phase_block& m) ROPEWALK_DETAIL_INLINE_LAMBDA {
            const auto value = m.at(m.t, i), gate = sigmoid(value);
            simd::store(m.s.data() + i, gate);
            simd::store(m.a.data() + i, value * gate);
        });
        product(rows, a, down_, dim * wide, bend);
        each(rows, [](index i, phase_block& m) ROPEWALK_DETAIL_INLINE_LAMBDA {
            simd::store(m.bend.data() + i, hyperbolic_tangent(m.at(m.bend, i)));
        });
    }
    /// x <- x (1 + bend / 2).
    void apply_gain(index rows) noexcept {
        each(rows, [](index i, phase_block& m) ROPEWALK_DETAIL_INLINE_LAMBDA {
            const auto value = m.at(m.x, i);
            simd::store(m.x.data() + i, simd::fma(value * simd::broadcast(C(0.5)), m.at(m.bend, i), value));
        });
    }

  private:
    template <class From, class To>
    void copy(const From* from, To* to) const noexcept {
        constexpr index n = simd::lanes<C>;
        index c = 0;
        for (; c + n <= dim; c += n) simd::store(to + c, simd::load(from + c));
        if (c < dim) simd::store_some(to + c, simd::load_some(from + c, dim - c), dim - c);
    }
    /// to = from * matrix; where the matrix has been converted, it is read at widened_ + at.
    void product(index rows, const aligned_vector<C>& from, const stored_t<W>* matrix, index at,
                 aligned_vector<C>& to) noexcept {
        const auto tiles = [&](const C* m, index stride) {
            tile_product<left::rows, onto::nothing, C>(rows, wide / simd::lanes<C>, dim, {from.data(), wide},
                                                       {m, stride}, {to.data(), wide});
        };
        if (widens_) return tiles(widened_.data() + at, wide);
        if constexpr (std::is_same_v<C, W>)
            if (dim == wide && rows > 1) return tiles(matrix, dim);
        for (index n = 0; n < rows; ++n) row_product(from.data() + n * wide, matrix, to.data() + n * wide);
    }
    void row_product(const C* from, const stored_t<W>* matrix, C* to) const noexcept {
        constexpr index n = simd::lanes<C>;
        index c = 0;
        for (; c + 8 * n <= dim; c += 8 * n) {  // whole rows of 128 channels, one after the other
            simd::pack<C> sum[8];
            for (auto& v : sum) v = simd::broadcast(C(0));
            for (index k = 0; k < dim; ++k) {
                const auto each_row = simd::broadcast(from[k]);
                ROPEWALK_DETAIL_UNROLL
                for (index r = 0; r < 8; ++r)
                    sum[r] = simd::fma(each_row, simd::load(matrix + k * dim + c + r * n), sum[r]);
            }
            for (index r = 0; r < 8; ++r) simd::store(to + c + r * n, sum[r]);
        }
        for (; c < dim; c += n) {
            const index count = std::min(n, dim - c);
            auto sum = simd::broadcast(C(0));
            for (index k = 0; k < dim; ++k)
                sum = simd::fma(simd::broadcast(from[k]), simd::load_some(matrix + k * dim + c, count), sum);
            simd::store(to + c, sum);
        }
    }
    template <class Do>
    void each(index rows, Do body) noexcept {
        for (index i = 0; i < rows * wide; i += simd::lanes<C>) body(i, *this);
    }
    simd::pack<C> at(const aligned_vector<C>& v, index i) const noexcept { return simd::load(v.data() + i); }

    static constexpr index enough_to_widen = 8;
    bool widens_;
    aligned_vector<C> widened_;  // up, then down
    const stored_t<W>*up_ = nullptr, *down_ = nullptr;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::phase_shift {

/// Phase Shift Calibration: x <- x (1 + tanh(silu(x up) down) / 2), head by head, in place, before the
/// rotation (calibrate q and k, then rotate them with the tables of the scaling in use). A learned gain in
/// (0.5, 1.5) per channel that corrects a fixed set of frequencies. It does not depend on the position.
/// Shapes:   x [batches, tokens, heads, head_dim], any strides, f64, f32, f16 or bf16; p with as many heads.
/// Requires: W double for f64 data; float, bf16 or f16 otherwise (bf16 is what the official code trains).
/// Throws:   invalid_config when the heads or channels of x are not those of p.
/// Cost:     4 head_dim^2 operations per head and token, as two matrix products over blocks of tokens;
///           allocates memory for one head's weights and 64 tokens.
/// Accuracy: arithmetic in f64 for f64 data, in f32 otherwise, rounded once to the storage type.
/// Source:   PSC, Zhu et al. 2024; WNQzhu/PSC PSC_code/lora_llama.py.
template <class T, class W>
void calibrate(const parameters<W>& p, heads_view<T> x) {
    using C = compute_t<T>;
    static_assert(std::is_same_v<C, compute_t<W>>,
                  "parameters: double for f64, float, bf16 or f16 otherwise");
    detail::require_writable("phase_shift::calibrate", "x", x);
    detail::require_phase("phase_shift::calibrate", p, x.heads(), x.channels());
    detail::phase_block<C, W> block(x.channels(), x.batches() * x.tokens());
    for (index h = 0; h < x.heads(); ++h) {
        block.load_head(p, h);
        for (index b = 0; b < x.batches(); ++b)
            for (index first = 0; first < x.tokens(); first += block.most_rows) {
                const index rows = std::min(block.most_rows, x.tokens() - first);
                block.read(x, b, h, first, rows, block.x);
                block.run(rows);
                block.apply_gain(rows);
                block.write(block.x, x, b, h, first, rows);
            }
    }
}

/// The gradients of a loss through calibrate: with respect to its input (overwrites `gradient`, which holds
/// the gradient with respect to its output) and to the parameters (added to `of_parameters`).
/// Shapes:   x the input of calibrate, gradient like it.
/// Requires: T double or float; of_parameters sized like p.
/// Throws:   invalid_config when sizes disagree.
/// Cost:     six matrix products where calibrate has two, over blocks of 64 tokens.
/// Source:   derived from calibrate by the chain rule.
template <class T>
void backpropagate(const parameters<T>& p, heads_view<const T> x, heads_view<T> gradient,
                   parameters<T>& of_parameters) {
    constexpr const char* who = "phase_shift::backpropagate";
    detail::require_readable(who, "x", x);
    detail::require_writable(who, "gradient", gradient);
    detail::require_phase(who, p, x.heads(), x.channels());
    detail::require_phase(who, of_parameters, x.heads(), x.channels());
    detail::require(gradient.tokens() == x.tokens() && gradient.batches() == x.batches() &&
                        gradient.heads() == x.heads() && gradient.channels() == x.channels(),
                    who, "gradient must have the shape of x", gradient.tokens());
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using strided = Eigen::Map<matrix, 0, Eigen::OuterStride<>>;
    const index d = p.head_dim;
    detail::phase_block<T, T> block(d, x.batches() * x.tokens());
    detail::aligned_vector<T> arriving(block.x.size());
    for (index h = 0; h < x.heads(); ++h) {
        const Eigen::Map<const matrix> up(p.up.data() + h * d * d, d, d);
        const Eigen::Map<const matrix> down(p.down.data() + h * d * d, d, d);
        Eigen::Map<matrix> of_up(of_parameters.up.data() + h * d * d, d, d);
        Eigen::Map<matrix> of_down(of_parameters.down.data() + h * d * d, d, d);
        block.load_head(p, h);
        for (index b = 0; b < x.batches(); ++b)
            for (index first = 0; first < x.tokens(); first += block.most_rows) {
                const index rows = std::min(block.most_rows, x.tokens() - first);
                block.read(x, b, h, first, rows, block.x);
                block.read(heads_view<const T>(gradient), b, h, first, rows, arriving);
                block.run(rows);
                const auto view = [&](detail::aligned_vector<T>& of) {
                    return strided(of.data(), rows, d, Eigen::OuterStride<>(block.wide));
                };
                const auto in = view(block.x), t = view(block.t), s = view(block.s), a = view(block.a),
                           bend = view(block.bend);
                auto incoming = view(arriving);
                const matrix of_g = incoming.array() * in.array() * (1 - bend.array().square()) / 2;
                of_down.noalias() += a.transpose() * of_g;
                const matrix of_t =
                    (of_g * down.transpose()).array() * s.array() * (1 + t.array() * (1 - s.array()));
                of_up.noalias() += in.transpose() * of_t;
                incoming.array() *= 1 + bend.array() / 2;
                incoming.noalias() += of_t * up.transpose();
                block.write(arriving, gradient, b, h, first, rows);
            }
    }
}

}  // namespace ROPEWALK_NAMESPACE::phase_shift
