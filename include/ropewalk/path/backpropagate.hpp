// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The backward pass of PaTH attention: gradients of queries, keys, values, transforms and gates.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

#include <ropewalk/attention/tiled_gradient.hpp>
#include <ropewalk/core/simd_exp.hpp>
#include <ropewalk/path/attend_options.hpp>
#include <ropewalk/path/block_gradient.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// The transforms that attend read, and their gradients.
/// Shapes:   w and dw [batches, tokens, kv heads, channels]; beta and d_beta [batches, tokens, kv heads];
///           d_log_gate [batches, tokens, heads], only with a gate. Numbers per head are views with one
///           channel.
template <class T>
struct transform_tensors {
    heads_view<const T> w;          ///< as attend read it
    head_numbers<T> beta;           ///< as attend read it
    heads_view<T> dw;               ///< written: gradient with respect to w
    heads_view<T> d_beta;           ///< written: gradient with respect to beta
    heads_view<T> d_log_gate = {};  ///< written: gradient with respect to the log gates
};

}  // namespace ROPEWALK_NAMESPACE::path

namespace ROPEWALK_NAMESPACE::detail {

/// The backward pass of one part: tiles of a sequence's queries from the last to the first. Each is carried
/// back over the earlier blocks, and its gradient is carried forward again.
template <class T, class Tensors>
class path_gradient {
    static constexpr index lanes = simd::lanes<T>;
    using at = matrix_at<const T>;

  public:
    path_gradient(const path_plan<T>& plan, const Tensors& tensors,
                  const path::transform_tensors<T>& transforms,
                  const path_gradient_scratch<T>& scratch) noexcept
        : plan_(plan),
          x_(tensors),
          t_(transforms),
          at_(scratch),
          channels_(plan.q.channels),
          value_channels_(plan.v.channels),
          group_(plan.group()) {}

    void run(index batch, index kv, index start, index length) noexcept {
        batch_ = batch, kv_ = kv, start_ = start, length_ = length;
        const index blocks = (length + at_.block - 1) / at_.block;
        make_gates();
        for (index j = 0; j < blocks; ++j) make_block(j);
        for (index i = blocks; i-- > 0;) {
            read_tile(i);
            for (index j = i; j-- > 1;)
                product<left::rows, onto::nothing>(rows_, channels_, channels_, queries(j),
                                                   {of(at_.product, j), at_.wide},
                                                   {queries_of(j - 1), at_.wide});
            std::fill_n(at_.dq, rows_ * at_.wide, T(0));
            for (index j = 0; j < i; ++j) cross(i, j);
            finish(i);
        }
    }

  private:
    template <left Left, onto Onto>
    static void product(index rows, index columns, index depth, at a, at b, matrix_at<T> c) noexcept {
        path_block<T>::template product<Left, Onto>(rows, columns, depth, a, b, c);
    }
    T* of(T* products, index j) const noexcept { return products + j * at_.wide * at_.wide; }
    T* rows_of_block(T* rows, index j, index width) const noexcept { return rows + j * at_.block * width; }
    T* queries_of(index j) const noexcept { return at_.queries + j * group_ * at_.block * at_.wide; }
    at queries(index j) const noexcept { return {queries_of(j), at_.wide}; }
    index tokens_of(index j) const noexcept { return std::min(at_.block, length_ - j * at_.block); }
    index first_of(index j) const noexcept { return start_ + j * at_.block; }

    void make_gates() noexcept {
        std::fill_n(at_.carry, group_, 0.0);
        for (index g = 0; g < group_ && plan_.gated(); ++g) {
            plan_.fill_gate_sums(batch_, kv_ * group_ + g, start_, length_, at_.gates + g * length_);
            std::fill_n(at_.d_gates + g * length_, length_, 0.0);
        }
    }
    /// Loads the block's own matrices into at_.now.
    void load_block(index j) noexcept {
        path_block<T>& now = at_.now;
        for (index n = 0; n < tokens_of(j); ++n) {
            read_row(t_.w.at(batch_, first_of(j) + n, kv_), now.w + n * at_.wide, channels_);
            read_row(x_.k.at(batch_, first_of(j) + n, kv_), now.k + n * at_.wide, channels_);
            now.beta[n] = *plan_.beta.at(batch_, first_of(j) + n, kv_);
            for (index c = channels_; c < at_.wide; ++c)
                now.w[n * at_.wide + c] = now.k[n * at_.wide + c] = T(0);
        }
        now.make(tokens_of(j));
    }
    /// Computes what later queries need of a block, and sets its gradients to zero.
    void make_block(index j) noexcept {
        load_block(j);
        const path_block<T>& now = at_.now;
        now.fill_product(of(at_.product, j), false);
        now.fill_product(of(at_.product_t, j), true);
        std::fill_n(of(at_.d_product, j), at_.wide * at_.wide, T(0));
        T* const keys = rows_of_block(at_.keys, j, at_.wide);
        now.fill_keys_at_end(keys);
        transpose<T>({keys, at_.wide}, now.tokens, channels_,
                     {at_.keys_t + j * at_.wide * at_.across, at_.across});
        std::fill_n(rows_of_block(at_.d_keys, j, at_.wide), at_.block * at_.wide, T(0));
        T* const values = rows_of_block(at_.d_values, j, at_.value_wide);
        for (index n = 0; n < now.tokens; ++n)
            read_row(x_.v.at(batch_, first_of(j) + n, kv_), values + n * at_.value_wide, value_channels_);
        transpose<T>({values, at_.value_wide}, now.tokens, value_channels_,
                     {at_.values_t + j * at_.value_wide * at_.across, at_.across});
        std::fill_n(values, at_.block * at_.value_wide, T(0));
    }

    /// Reads the queries of block i, head by head, untransformed and as they enter the block before.
    void read_tile(index i) noexcept {
        load_block(i);
        const path_block<T>& now = at_.now;
        count_ = tokens_of(i);
        rows_ = group_ * count_;
        for (index r = 0; r < rows_; ++r) {
            const index n = first_of(i) + r % count_, h = kv_ * group_ + r / count_;
            T *const query = at_.own + r * at_.wide, *const d_out = at_.d_out + r * at_.value_wide;
            read_row(x_.q.at(batch_, n, h), query, channels_);
            read_row(x_.d_out.at(batch_, n, h), d_out, value_channels_);
            std::fill(query + channels_, query + at_.wide, T(0));
            std::fill(d_out + value_channels_, d_out + at_.value_wide, T(0));
            read_row(x_.out.at(batch_, n, h), at_.row, value_channels_);
            T sum = 0;
            for (index c = 0; c < value_channels_; ++c) sum += at_.row[c] * d_out[c];
            at_.dot[r] = sum;
            at_.log_weight[r] =
                x_.log_weight[static_cast<std::size_t>((batch_ * plan_.q.tokens + n) * plan_.q.heads + h)];
        }
        product<left::rows, onto::nothing>(rows_, count_, channels_, {at_.own, at_.wide},
                                           {now.w_t, at_.across}, {at_.through, at_.across});
        hide_later(at_.through);
        if (i == 0) return;
        std::copy_n(at_.own, rows_ * at_.wide, queries_of(i - 1));
        product<left::rows, onto::sum>(rows_, channels_, count_, {at_.through, at_.across}, {now.y, at_.wide},
                                       {queries_of(i - 1), at_.wide});
    }
    /// x [rows, across]: sets 0 where a transform is later than the query.
    void hide_later(T* x) const noexcept {
        for (index r = 0; r < rows_; ++r)
            std::fill(x + r * at_.across + r % count_ + 1, x + (r + 1) * at_.across, T(0));
    }

    /// at_.share: scores become shares. at_.d_score: d_out v becomes the gradient with respect to the scores.
    /// For the `keys` keys of block j.
    void weigh(index i, index j, index keys) noexcept {
        const bool gated = plan_.gated();
        if (gated) make_block_gates(i, j, keys);
        T numbers[static_cast<std::size_t>(lanes)];
        for (index l = 0; l < lanes; ++l) numbers[l] = static_cast<T>(l);
        const auto lane_number = simd::load(static_cast<const T*>(numbers));
        const auto hidden = simd::broadcast(-std::numeric_limits<T>::infinity());
        const auto scale = simd::broadcast(plan_.scale);
        for (index r = 0; r < rows_; ++r) {
            T *const share = at_.share + r * at_.across, *const d_score = at_.d_score + r * at_.across;
            const index head = r / count_ * at_.across;
            const auto offset =
                simd::broadcast(gated ? at_.row_gate[r] - at_.log_weight[r] : -at_.log_weight[r]);
            const auto dot = simd::broadcast(at_.dot[r]);
            const index seen = i == j ? r % count_ + 1 : keys;
            auto sum = simd::broadcast(T(0));
            for (index c = 0; c < keys; c += lanes) {
                auto x = simd::fma(simd::load(static_cast<const T*>(share + c)), scale, offset);
                if (gated) x = x + simd::load(static_cast<const T*>(at_.key_gate + head + c));
                if (c + lanes > seen)
                    x = simd::choose(lane_number + simd::broadcast(static_cast<T>(c)) <
                                         simd::broadcast(static_cast<T>(seen)),
                                     x, hidden);
                const auto p = simd::exp_of_negative(x);
                const auto ds = p * scale * (simd::load(static_cast<const T*>(d_score + c)) - dot);
                simd::store(share + c, p);
                simd::store(d_score + c, ds);
                if (!gated) continue;
                sum = sum + ds;
                T* const by_key = at_.key_sum + head + c;
                simd::store(by_key, simd::load(static_cast<const T*>(by_key)) + ds);
            }
            if (gated) at_.row_sum[r] = lane_sum<T>(sum);
        }
        if (gated) add_block_gates(i, j, keys);
    }
    /// Both halves of scale (G_i - G_j), relative to the end of block j: sums of gates grow without limit,
    /// but visible differences stay small.
    void make_block_gates(index i, index j, index keys) noexcept {
        for (index g = 0; g < group_; ++g) {
            const double* const sums = at_.gates + g * length_;
            const double from = sums[j * at_.block + keys - 1], scale = static_cast<double>(plan_.scale);
            T *const by_key = at_.key_gate + g * at_.across, *const zero = at_.key_sum + g * at_.across;
            std::fill_n(by_key, at_.across, T(0));
            std::fill_n(zero, at_.across, T(0));
            for (index c = 0; c < keys; ++c)
                by_key[c] = static_cast<T>(scale * (from - sums[j * at_.block + c]));
            for (index n = 0; n < count_; ++n)
                at_.row_gate[g * count_ + n] = static_cast<T>(scale * (sums[i * at_.block + n] - from));
        }
    }
    void add_block_gates(index i, index j, index keys) noexcept {
        for (index g = 0; g < group_; ++g) {
            double* const sums = at_.d_gates + g * length_;
            for (index n = 0; n < count_; ++n)
                sums[i * at_.block + n] += static_cast<double>(at_.row_sum[g * count_ + n]);
            for (index c = 0; c < keys; ++c)
                sums[j * at_.block + c] -= static_cast<double>(at_.key_sum[g * at_.across + c]);
        }
    }

    /// The tile against the earlier block j, in the forward direction: carries dq from before the transforms
    /// of j to after them.
    void cross(index i, index j) noexcept {
        const index keys = tokens_of(j);
        if (j > 0) {
            product<left::columns, onto::sum>(channels_, channels_, rows_, queries(j), {at_.dq, at_.wide},
                                              {of(at_.d_product, j), at_.wide});
            std::swap(at_.dq, at_.dq_before);
            product<left::rows, onto::nothing>(rows_, channels_, channels_, {at_.dq_before, at_.wide},
                                               {of(at_.product_t, j), at_.wide}, {at_.dq, at_.wide});
        }
        product<left::rows, onto::nothing>(rows_, keys, channels_, queries(j),
                                           {at_.keys_t + j * at_.wide * at_.across, at_.across},
                                           {at_.share, at_.across});
        add_value_gradients(i, j, keys);
        product<left::columns, onto::sum>(keys, channels_, rows_, {at_.d_score, at_.across}, queries(j),
                                          {rows_of_block(at_.d_keys, j, at_.wide), at_.wide});
        product<left::rows, onto::sum>(rows_, channels_, keys, {at_.d_score, at_.across},
                                       {rows_of_block(at_.keys, j, at_.wide), at_.wide}, {at_.dq, at_.wide});
    }
    /// Turns scores into shares and their gradients, and adds the gradient of the values of block j.
    void add_value_gradients(index i, index j, index keys) noexcept {
        product<left::rows, onto::nothing>(rows_, keys, value_channels_, {at_.d_out, at_.value_wide},
                                           {at_.values_t + j * at_.value_wide * at_.across, at_.across},
                                           {at_.d_score, at_.across});
        weigh(i, j, keys);
        product<left::columns, onto::sum>(keys, value_channels_, rows_, {at_.share, at_.across},
                                          {at_.d_out, at_.value_wide},
                                          {rows_of_block(at_.d_values, j, at_.value_wide), at_.value_wide});
    }

    /// The tile against its own block, whose gradients are then complete, since all later queries have been
    /// processed.
    void finish(index i) noexcept {
        path_block<T>& now = at_.now;
        now.clear_gradients();
        product<left::rows, onto::nothing>(rows_, count_, channels_, {at_.own, at_.wide},
                                           {now.k_t, at_.across}, {at_.share, at_.across});
        product<left::rows, onto::sum>(rows_, count_, count_, {at_.through, at_.across}, {now.m, at_.across},
                                       {at_.share, at_.across});
        add_value_gradients(i, i, count_);

        const at d_score{at_.d_score, at_.across}, through{at_.through, at_.across};
        product<left::rows, onto::nothing>(rows_, count_, count_, d_score, {now.m_t, at_.across},
                                           {at_.d_through, at_.across});
        product<left::columns, onto::sum>(count_, count_, rows_, through, d_score, {now.dm, at_.across});
        if (i > 0) {
            product<left::rows, onto::sum>(rows_, count_, channels_, {at_.dq, at_.wide},
                                           {now.y_t, at_.across}, {at_.d_through, at_.across});
            product<left::columns, onto::sum>(count_, channels_, rows_, through, {at_.dq, at_.wide},
                                              {now.dy, at_.wide});
        }
        hide_later(at_.d_through);
        const at d_through{at_.d_through, at_.across};
        product<left::columns, onto::sum>(count_, channels_, rows_, d_score, {at_.own, at_.wide},
                                          {now.dk, at_.wide});
        product<left::columns, onto::sum>(count_, channels_, rows_, d_through, {at_.own, at_.wide},
                                          {now.dw, at_.wide});
        product<left::rows, onto::sum>(rows_, channels_, count_, d_score, {now.k, at_.wide},
                                       {at_.dq, at_.wide});
        product<left::rows, onto::sum>(rows_, channels_, count_, d_through, {now.w, at_.wide},
                                       {at_.dq, at_.wide});
        now.make_gradients(of(at_.d_product, i), rows_of_block(at_.d_keys, i, at_.wide));
        write(i);
    }
    void write(index i) noexcept {
        const path_block<T>& now = at_.now;
        for (index r = 0; r < rows_; ++r)
            write_row(at_.dq + r * at_.wide,
                      x_.dq.at(batch_, first_of(i) + r % count_, kv_ * group_ + r / count_), channels_);
        for (index n = 0; n < count_; ++n) {
            const index token = first_of(i) + n;
            write_row(now.dk + n * at_.wide, x_.dk.at(batch_, token, kv_), channels_);
            write_row(now.dw + n * at_.wide, t_.dw.at(batch_, token, kv_), channels_);
            write_row(rows_of_block(at_.d_values, i, at_.value_wide) + n * at_.value_wide,
                      x_.dv.at(batch_, token, kv_), value_channels_);
            *t_.d_beta.at(batch_, token, kv_) = now.d_beta[n];
        }
        for (index g = 0; g < group_ && plan_.gated(); ++g)
            for (index n = count_; n-- > 0;) {
                // A gate is part of the sums of its own token and of all later tokens.
                at_.carry[g] += at_.d_gates[g * length_ + i * at_.block + n];
                *t_.d_log_gate.at(batch_, first_of(i) + n, kv_ * group_ + g) = static_cast<T>(at_.carry[g]);
            }
    }

    const path_plan<T>& plan_;
    const Tensors& x_;
    const path::transform_tensors<T>& t_;
    path_gradient_scratch<T> at_;
    index channels_, value_channels_, group_;
    index batch_ = 0, kv_ = 0, start_ = 0, length_ = 0, count_ = 0, rows_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::path {

/// Bytes of workspace that one call of backpropagate needs: proportional to the longest sequence.
/// Throws: invalid_config on a block of 0, sequence_ends that do not ascend, or a size that does not fit.
template <class Q, class K, class V>
index backpropagate_workspace(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                              const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "path::backpropagate_workspace";
    const detail::path_plan<T> plan(who, q.shape, k.shape, v.shape, options);
    return detail::path_gradient_scratch<T>(who, {}, plan).bytes;
}

/// The backward pass of attend: gradients with respect to q, k, v, w, beta and the log gates from the saved
/// log of the softmax sums, block by block, without a matrix of scores. Overwrites the gradients.
/// Shapes:   as attend and attention::gradient_tensors; out and log_weight [batches, tokens, heads]
///           (attend_options::log_weight) as attend wrote them. options: block, scale, log_gate,
///           sequence_ends and part as in attend; logits and log_weight are not used. Parts share batches *
///           kv heads * sequences; each has a workspace of its own.
/// Requires: finite inputs; written tensors share no memory with tensors that are read.
/// Throws:   invalid_config on what attend refuses, gradients of other sizes, a gate without d_log_gate or
///           the reverse, or a workspace that is too small, before anything is written. Allocates nothing.
/// Cost:     heads tokens^2 / 2 (3 channels + 2 value channels + 3 channels^2 / block) multiply-adds in
///           matrix products. Workspace: about tokens (heads / kv heads + 5 + 3 channels / block) channels
///           numbers.
/// Accuracy: f64 1e-11 of the exact gradient, f32 1e-4 of the largest, for |w| <= 1 and order-1 inputs.
/// Source:   Yang et al. 2025, section 3; Dao et al. 2022, appendix B.
///
///     attend(q, k, v, w, beta, out, {.log_weight = log_weight});
///     backpropagate(attention::gradient_tensors{q, k, v, out, d_out, log_weight, dq, dk, dv},
///                   {w, beta, dw, d_beta}, workspace);
template <class Q, class K, class V, class O, class D, class DQ, class DK, class DV>
void backpropagate(const attention::gradient_tensors<Q, K, V, O, D, DQ, DK, DV>& t,
                   const std::type_identity_t<transform_tensors<compute_t<Q>>>& x,
                   std::span<std::byte> workspace, const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "path::backpropagate";
    attend_options<T> own = options;
    own.logits = own.log_weight = {};
    const detail::path_plan<T> plan(who, t.q.shape, t.k.shape, t.v.shape, x.w.shape, t.out.shape, x.beta,
                                    own);
    detail::check_gradients(who, t);
    detail::require_readable(who, "w", x.w);
    detail::require_writable(who, "dw", x.dw);
    detail::require_writable(who, "d_beta", x.d_beta);
    detail::require_writable(who, "d_log_gate", x.d_log_gate);
    detail::require_extents(who, "dw must have w's extents", x.w.shape, x.dw.shape);
    const heads_shape& q = t.q.shape;
    detail::require_extents(who, "d_beta must be [batches, tokens, kv heads]",
                            {q.batches, q.tokens, t.k.heads(), 1}, x.d_beta.shape);
    if (plan.gated())
        detail::require_extents(who, "d_log_gate must be [batches, tokens, heads]",
                                {q.batches, q.tokens, q.heads, 1}, x.d_log_gate.shape);
    else
        detail::require(x.d_log_gate.empty(), who, "d_log_gate must be empty without a gate, tokens",
                        x.d_log_gate.tokens());
    detail::require_equal(who, "log_weight must hold batches * tokens * heads numbers",
                          q.batches * q.tokens * q.heads, t.log_weight.size());
    const index needed = detail::path_gradient_scratch<T>(who, {}, plan).bytes;
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold backpropagate_workspace bytes", workspace.size());
    if (t.q.empty()) {  // no query, no loss: nothing depends on the keys, and their gradients are written
        const auto clear = [](auto view, index b, index n, index h) {
            using E = std::remove_reference_t<decltype(*view.data)>;
            if (h < view.heads()) std::fill_n(view.at(b, n, h), view.channels(), E(compute_t<E>(0)));
        };
        plan.each_sequence([&](index b, index kv, index start, index length) {
            for (index n = start; n < start + length; ++n) {
                clear(t.dk, b, n, kv);
                clear(t.dv, b, n, kv);
                clear(x.dw, b, n, kv);
                clear(x.d_beta, b, n, kv);
            }
        });
        return;
    }
    const detail::path_gradient_scratch<T> scratch(who, detail::workspace_cutter(workspace), plan);
    detail::path_gradient pass(plan, t, x, scratch);
    plan.each_sequence([&](index b, index kv, index start, index length) { pass.run(b, kv, start, length); });
}

}  // namespace ROPEWALK_NAMESPACE::path
