// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <future>
#include <numeric>
#include <random>

#include <ropewalk/adapters/phase_shift_file.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/tiled_gradient.hpp>

#include "model.hpp"

namespace tinylm {

/// PSC's modules of all layers.
template <class T = float>
using phase_modules = std::vector<rw::phase_shift::layer_modules<T>>;

/// Every parameter of some modules, in one fixed order.
template <class T, class Do>
void each_tensor(phase_modules<T>& modules, Do body) {
    for (auto& layer : modules)
        for (auto* side : {&layer.queries, &layer.keys})
            for (auto* tensor : {&side->up, &side->down}) body(*tensor);
}
/// Modules that change nothing yet, and modules of zeros, for a model.
template <class T = float>
phase_modules<T> initial_modules(const model& m) {
    phase_modules<T> made;
    for (index l = 0; l < m.layers; ++l)
        made.push_back(
            {rw::phase_shift::make_initial<T>(m.heads, m.head_dim, static_cast<std::uint64_t>(2 * l)),
             rw::phase_shift::make_initial<T>(m.kv_heads, m.head_dim,
                                              static_cast<std::uint64_t>(2 * l + 1))});
    return made;
}
template <class T = float>
phase_modules<T> zero_modules(const model& m) {
    auto made = initial_modules<T>(m);
    each_tensor(made, [](std::vector<T>& tensor) { std::fill(tensor.begin(), tensor.end(), T(0)); });
    return made;
}

/// The loss of a window of text, and its gradient by PSC's modules: the model with everything kept that the
/// way back needs. The model's own weights stay. T is double where the gradient is checked.
template <class T>
class phase_pass {
    using numbers = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using row = Eigen::Array<T, 1, Eigen::Dynamic>;
    struct weights {
        numbers q, k, v, o, gate, up, down;
        row input_norm, post_norm;
    };
    struct kept {
        numbers x, q_before, k_before, q, k, v, out, middle, gate, up;
        std::vector<T> log_weight;
    };

  public:
    phase_pass(const model& m, rw::rotary_scheme rope, const rw::spectrum& frequencies)
        : m_(m),
          epsilon_(static_cast<T>(m.norm_epsilon)),
          rope_(std::move(rope)),
          frequencies_(frequencies),
          embedding_(m.embedding.cast<T>()),
          head_(m.head.cast<T>()),
          final_norm_(m.final_norm.row(0).cast<T>()) {
        for (const auto& w : m.layer)
            weights_.push_back({w.q.cast<T>(), w.k.cast<T>(), w.v.cast<T>(), w.o.cast<T>(), w.gate.cast<T>(),
                                w.up.cast<T>(), w.down.cast<T>(), w.input_norm.row(0).cast<T>(),
                                w.post_norm.row(0).cast<T>()});
    }

    /// Mean nats a byte of `text` predicted from itself; with `gradient`, adds d loss / d modules to it.
    double loss(tokens_view text, const phase_modules<T>& modules, phase_modules<T>* gradient = nullptr) {
        const auto n = static_cast<index>(text.size());
        const auto table = rw::make_rotation_table<T>(frequencies_, rw::position_ids::text(n));
        std::vector<kept> kept_of(weights_.size());
        numbers x(n, m_.hidden);
        for (index i = 0; i < n; ++i) x.row(i) = embedding_.row(text[static_cast<std::size_t>(i)]);
        for (std::size_t l = 0; l < weights_.size(); ++l)
            x = forward(weights_[l], modules[l], table, x, kept_of[l]);
        numbers p = normalized(x, final_norm_) * head_.transpose();
        double sum = 0;
        for (index i = 0; i < n; ++i) {  // probabilities, then d loss / d logits
            p.row(i) = (p.row(i).array() - p.row(i).maxCoeff()).exp();
            p.row(i) /= p.row(i).sum();
            if (i + 1 == n) {
                p.row(i).setZero();
                break;
            }
            T& hit = p(i, text[static_cast<std::size_t>(i + 1)]);
            sum -= std::log(static_cast<double>(hit));
            hit -= T(1);
        }
        const double mean = sum / static_cast<double>(n - 1);
        if (gradient == nullptr) return mean;
        p /= static_cast<T>(n - 1);
        numbers dx = normalized_gradient(x, final_norm_, p * head_);
        for (std::size_t l = weights_.size(); l-- > 0;)
            dx = backward(weights_[l], modules[l], table, kept_of[l], dx, (*gradient)[l]);
        return mean;
    }

  private:
    numbers normalized(const numbers& x, const row& weight) const {
        return (x.array().colwise() * scale_of(x)).rowwise() * weight;
    }
    Eigen::Array<T, Eigen::Dynamic, 1> scale_of(const numbers& x) const {
        return (x.rowwise().squaredNorm().array() / static_cast<T>(x.cols()) + epsilon_).rsqrt();
    }
    /// d loss / d x of y = normalized(x) from d loss / d y.
    numbers normalized_gradient(const numbers& x, const row& weight, const numbers& dy) const {
        const auto scale = scale_of(x);
        const numbers scaled = dy.array().rowwise() * weight;
        const Eigen::Array<T, Eigen::Dynamic, 1> along =
            (scaled.array() * x.array()).rowwise().sum() * scale.cube() / static_cast<T>(x.cols());
        return scaled.array().colwise() * scale - x.array().colwise() * along;
    }
    rw::heads_view<T> heads(numbers& x, index count) const {
        return {x.data(), x.rows(), count, m_.head_dim};
    }
    static numbers gated(const numbers& gate) { return gate.array() / ((-gate.array()).exp() + 1); }  // SiLU

    numbers forward(const weights& w, const rw::phase_shift::layer_modules<T>& modules,
                    const rw::rotation_table<T>& table, const numbers& x, kept& keep) const {
        keep.x = x;
        const numbers h = normalized(x, w.input_norm);
        keep.q = keep.q_before = h * w.q.transpose();
        keep.k = keep.k_before = h * w.k.transpose();
        keep.v = h * w.v.transpose();
        const auto q = heads(keep.q, m_.heads), k = heads(keep.k, m_.kv_heads),
                   v = heads(keep.v, m_.kv_heads);
        rw::phase_shift::calibrate(modules.queries, q);
        rw::phase_shift::calibrate(modules.keys, k);
        rw::rotate(rope_, q, k, table);
        keep.out.resize(x.rows(), m_.heads * m_.head_dim);
        keep.log_weight.resize(static_cast<std::size_t>(x.rows() * m_.heads));
        std::vector<std::byte> workspace(static_cast<std::size_t>(rw::attention::attend_workspace(q, k, v)));
        rw::attention::attend(rw::attention::causal_mask{}, q, k, v, heads(keep.out, m_.heads), workspace,
                              {.log_weight = keep.log_weight});
        keep.middle = x + keep.out * w.o.transpose();
        const numbers inner = normalized(keep.middle, w.post_norm);
        keep.gate = inner * w.gate.transpose();
        keep.up = inner * w.up.transpose();
        return keep.middle + numbers(gated(keep.gate).array() * keep.up.array()) * w.down.transpose();
    }
    numbers backward(const weights& w, const rw::phase_shift::layer_modules<T>& modules,
                     const rw::rotation_table<T>& table, kept& keep, const numbers& dx,
                     rw::phase_shift::layer_modules<T>& gradient) const {
        const numbers d_inner = dx * w.down, sigmoid = ((-keep.gate.array()).exp() + 1).inverse();
        const numbers d_gate = d_inner.array() * keep.up.array() * sigmoid.array() *
                               (1 + keep.gate.array() * (1 - sigmoid.array()));
        const numbers d_up = d_inner.array() * gated(keep.gate).array();
        const numbers d_middle =
            dx + normalized_gradient(keep.middle, w.post_norm, d_gate * w.gate + d_up * w.up);

        numbers d_out = d_middle * w.o, dq(keep.q.rows(), keep.q.cols()), dk(keep.k.rows(), keep.k.cols()),
                dv(dk);
        const auto q = heads(keep.q, m_.heads), k = heads(keep.k, m_.kv_heads),
                   v = heads(keep.v, m_.kv_heads);
        std::vector<std::byte> workspace(
            static_cast<std::size_t>(rw::attention::attend_gradient_workspace(q, v)));
        rw::attention::attend_gradient(
            rw::attention::causal_mask{},
            rw::attention::gradient_tensors{q, k, v, heads(keep.out, m_.heads), heads(d_out, m_.heads),
                                            std::span<const T>(keep.log_weight), heads(dq, m_.heads),
                                            heads(dk, m_.kv_heads), heads(dv, m_.kv_heads)},
            workspace);
        rw::rotate_gradient(rope_, heads(dq, m_.heads), heads(dk, m_.kv_heads), table);
        const auto back = [&](const auto& module, numbers& before, numbers& d, index count, auto& into) {
            rw::phase_shift::backpropagate<T>(module, heads(before, count), heads(d, count), into);
        };
        back(modules.queries, keep.q_before, dq, m_.heads, gradient.queries);
        back(modules.keys, keep.k_before, dk, m_.kv_heads, gradient.keys);
        return d_middle + normalized_gradient(keep.x, w.input_norm, dq * w.q + dk * w.k + dv * w.v);
    }

    const model& m_;
    T epsilon_;
    rw::rotary_scheme rope_;
    rw::spectrum frequencies_;
    numbers embedding_, head_;
    row final_norm_;
    std::vector<weights> weights_;
};

struct phase_fit_options {
    index context = 2048;    ///< bytes of a window
    int steps = 60;          ///< of Adam, the pace falling to nothing along a cosine
    double pace = 3e-3;      ///< of the first step
    int windows = 2;         ///< a step, at random places, side by side
    int steps_to_check = 5;  ///< between two looks at the text that is kept apart
};
struct phase_fit {
    phase_modules<> modules;       ///< those that read `apart` best
    double before = 0, after = 0;  ///< nats a byte of `apart` without and with them
    int best_step = 0;
};

/// PSC's training in small: all parameters of all modules by Adam, the model untouched. Windows come from
/// `text`; `apart` decides which step is kept. `done` hears of every step.
inline phase_fit fit_phase_modules(const model& m, const rw::rotary_scheme& rope,
                                   const rw::spectrum& frequencies, tokens_view text, tokens_view apart,
                                   const phase_fit_options& options, const std::function<void()>& done = {}) {
    phase_pass<float> pass(m, rope, frequencies);
    auto modules = initial_modules(m), mean = zero_modules(m), square = mean;
    const auto score_apart = [&] {
        double sum = 0;
        index count = 0;
        for (std::size_t at = 0; at + static_cast<std::size_t>(options.context) <= apart.size();
             at += static_cast<std::size_t>(options.context), ++count)
            sum += pass.loss(apart.subspan(at, static_cast<std::size_t>(options.context)), modules);
        return sum / static_cast<double>(count);
    };
    phase_fit best{.modules = modules, .before = score_apart()};
    best.after = best.before;
    std::mt19937 engine(11);
    for (int step = 1; step <= options.steps; ++step) {
        std::vector<std::future<phase_modules<>>> parts;
        for (int w = 0; w < options.windows; ++w) {
            const std::size_t first =
                engine() % (text.size() - static_cast<std::size_t>(options.context) + 1);
            parts.push_back(std::async(std::launch::async, [&, first] {
                phase_pass<float> own(m, rope, frequencies);
                auto gradient = zero_modules(m);
                own.loss(text.subspan(first, static_cast<std::size_t>(options.context)), modules, &gradient);
                return gradient;
            }));
        }
        std::vector<phase_modules<>> gradients;  // in the order of the windows, whoever is first
        for (auto& part : parts) gradients.push_back(part.get());
        const double along = static_cast<double>(step - 1) / options.steps;
        const double pace = options.pace * 0.5 * (1 + std::cos(3.141592653589793 * along));
        std::vector<std::vector<float>*> weight, first, second;
        std::vector<std::vector<const std::vector<float>*>> slopes(gradients.size());
        each_tensor(modules, [&](auto& t) { weight.push_back(&t); });
        each_tensor(mean, [&](auto& t) { first.push_back(&t); });
        each_tensor(square, [&](auto& t) { second.push_back(&t); });
        for (std::size_t g = 0; g < gradients.size(); ++g)
            each_tensor(gradients[g], [&](auto& t) { slopes[g].push_back(&t); });
        for (std::size_t t = 0; t < weight.size(); ++t)
            for (std::size_t i = 0; i < weight[t]->size(); ++i) {
                double slope = 0;
                for (const auto& of : slopes) slope += static_cast<double>((*of[t])[i]) / options.windows;
                float &a = (*first[t])[i], &b = (*second[t])[i];
                a = static_cast<float>(0.9 * static_cast<double>(a) + 0.1 * slope);
                b = static_cast<float>(0.99 * static_cast<double>(b) + 0.01 * slope * slope);
                const double mean_slope = static_cast<double>(a) / (1 - std::pow(0.9, step)),
                             mean_square = static_cast<double>(b) / (1 - std::pow(0.99, step));
                (*weight[t])[i] -= static_cast<float>(pace * mean_slope / (std::sqrt(mean_square) + 1e-8));
            }
        if (step % options.steps_to_check == 0 || step == options.steps)
            if (const double now = score_apart(); now < best.after)
                best.modules = modules, best.after = now, best.best_step = step;
        if (done) done();
    }
    return best;
}

}  // namespace tinylm
