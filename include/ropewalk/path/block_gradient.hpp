// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The derivative of one block of PaTH transforms, and the memory of a backward call.
#pragma once

#include <algorithm>

#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/path/attend_options.hpp>

/// One block of PaTH transforms with its derivative, in memory of the caller; backpropagate repeats it for
/// every block. Factors are stored with the sign that makes every product an addition.
/// Source: WY form, Bischof and Van Loan 1987; its derivative by the chain rule.
namespace ROPEWALK_NAMESPACE::detail {

/// to [columns, stride of `to`] = from^T of from [rows, columns]; numbers past `rows`, up to whole registers,
/// are 0.
template <class T>
void transpose(matrix_at<const T> from, index rows, index columns, matrix_at<T> to) noexcept {
    constexpr index side = 16;
    for (index r = 0; r < rows; r += side)
        for (index c = 0; c < columns; ++c)
            for (index i = r; i < std::min(r + side, rows); ++i)
                to.data[c * to.stride + i] = from.data[i * from.stride + c];
    for (index c = 0; c < columns; ++c)
        std::fill(to.data + c * to.stride + rows, to.data + c * to.stride + whole_packs<T>(rows), T(0));
}

/// The transforms of up to `block` tokens: their product is P = I + W^T Y, and the block's keys at its end
/// are K + M^T W, where
///     A Y = -B W,  A M = -B L(W K^T),  A = I + B L(W W^T),  L the strictly lower triangle, B = diag(beta).
/// Matrices of `tokens` rows have `wide` numbers per row for channels, or `across` for tokens.
template <class T>
struct path_block {
    using at = matrix_at<const T>;
    index channels, wide, across, tokens = 0;
    T *w, *k, *y, *m;                  // [tokens, wide] three times, [tokens, across]
    T *w_t, *k_t, *y_t, *m_t;          // the same transposed
    T *ww, *wk, *a;                    // W W^T, W K^T, A - I: [tokens, across]
    T *dw, *dk, *dy, *dm, *da;         // as w, k, y, m, a
    T *beta, *d_beta, *square, *flip;  // [tokens] twice; [most, most of across and wide] twice

    path_block(const char* who, workspace_cutter& cutter, index block, index channel_count)
        : channels(channel_count), wide(whole_packs<T>(channel_count)), across(whole_packs<T>(block)) {
        const auto rows = [&](T*& x) { x = cutter.template cut<T>(who, {block, wide}); };
        const auto columns = [&](T*& x) { x = cutter.template cut<T>(who, {wide, across}); };
        const auto pairs = [&](T*& x) { x = cutter.template cut<T>(who, {block, across}); };
        for (T** x : {&w, &k, &y, &dw, &dk, &dy}) rows(*x);
        for (T** x : {&w_t, &k_t, &y_t}) columns(*x);
        for (T** x : {&m, &m_t, &ww, &wk, &a, &dm, &da}) pairs(*x);
        beta = cutter.template cut<T>(who, {block});
        d_beta = cutter.template cut<T>(who, {block});
        const index most = std::max(wide, across);
        square = cutter.template cut<T>(who, {std::max(block, wide), most});
        flip = cutter.template cut<T>(who, {std::max(block, wide), most});
    }

    /// c [rows, columns] (+)= a b.
    template <left Left, onto Onto>
    static void product(index rows, index columns, index depth, at a, at b, matrix_at<T> c) noexcept {
        tile_product<Left, Onto, T>(rows, whole_packs<T>(columns) / simd::lanes<T>, depth, a, b, c);
    }

    /// All results of the forward pass, from w, k and beta.
    void make(index count) noexcept {
        tokens = count;
        transpose<T>({w, wide}, tokens, channels, {w_t, across});
        transpose<T>({k, wide}, tokens, channels, {k_t, across});
        product<left::rows, onto::nothing>(tokens, tokens, channels, {w, wide}, {w_t, across}, {ww, across});
        product<left::rows, onto::nothing>(tokens, tokens, channels, {w, wide}, {k_t, across}, {wk, across});
        for (index r = 0; r < tokens; ++r) {
            const T b = beta[r];
            for (index c = 0; c < wide; ++c) y[r * wide + c] = c < channels ? -b * w[r * wide + c] : T(0);
            for (index s = 0; s < across; ++s) {
                a[r * across + s] = s < r ? b * ww[r * across + s] : T(0);
                m[r * across + s] = s < r ? -b * wk[r * across + s] : T(0);
            }
            for (index s = 0; s < r; ++s) {
                const T factor = -a[r * across + s];
                add_multiple(factor, y + s * wide, y + r * wide, wide);
                add_multiple(factor, m + s * across, m + r * across, across);
            }
        }
        transpose<T>({y, wide}, tokens, channels, {y_t, across});
        transpose<T>({m, across}, tokens, tokens, {m_t, across});
    }
    /// P, or its transpose.
    void fill_product(T* p, bool transposed) const noexcept {
        for (index i = 0; i < channels; ++i) {
            std::fill_n(p + i * wide, wide, T(0));
            p[i * wide + i] = 1;
        }
        product<left::columns, onto::sum>(channels, channels, tokens, {transposed ? y : w, wide},
                                          {transposed ? w : y, wide}, {p, wide});
    }
    /// The block's keys at its end, [tokens, wide].
    void fill_keys_at_end(T* to) const noexcept {
        std::copy_n(k, tokens * wide, to);
        product<left::columns, onto::sum>(tokens, channels, tokens, {m, across}, {w, wide}, {to, wide});
    }

    void clear_gradients() noexcept {
        for (T* x : {dw, dk, dy}) std::fill_n(x, tokens * wide, T(0));
        std::fill_n(dm, tokens * across, T(0));
    }
    /// Computes dw, dk and d_beta from dy, dm, the previous contents of dw and dk, the gradient dp of P and
    /// the gradient d_end of the keys at the end.
    void make_gradients(const T* dp, const T* d_end) noexcept {
        for (index i = 0; i < tokens * wide; ++i) dk[i] += d_end[i];
        product<left::rows, onto::sum>(tokens, channels, channels, {w, wide}, {dp, wide}, {dy, wide});
        transpose<T>({dp, wide}, channels, channels, {flip, wide});
        product<left::rows, onto::sum>(tokens, channels, channels, {y, wide}, {flip, wide}, {dw, wide});
        transpose<T>({d_end, wide}, tokens, channels, {flip, across});
        product<left::rows, onto::sum>(tokens, tokens, channels, {w, wide}, {flip, across}, {dm, across});
        product<left::rows, onto::sum>(tokens, channels, tokens, {m, across}, {d_end, wide}, {dw, wide});

        // Through A^-1: dy and dm become the gradients of the right-hand sides.
        for (index r = tokens - 1; r > 0; --r)
            for (index s = 0; s < r; ++s) {
                const T factor = -a[r * across + s];
                add_multiple(factor, dy + r * wide, dy + s * wide, wide);
                add_multiple(factor, dm + r * across, dm + s * across, across);
            }
        product<left::rows, onto::nothing>(tokens, tokens, channels, {dy, wide}, {y_t, across}, {da, across});
        product<left::rows, onto::sum>(tokens, tokens, tokens, {dm, across}, {m_t, across}, {da, across});
        for (index r = 0; r < tokens; ++r) {
            T sum = 0;
            for (index c = 0; c < channels; ++c) sum -= dy[r * wide + c] * w[r * wide + c];
            for (index s = 0; s < r; ++s)
                sum -= da[r * across + s] * ww[r * across + s] + dm[r * across + s] * wk[r * across + s];
            d_beta[r] = sum;
            for (index c = 0; c < channels; ++c) dw[r * wide + c] -= beta[r] * dy[r * wide + c];
            for (index s = 0; s < tokens; ++s) {
                T& by_key = dm[r * across + s];
                T& by_w = da[r * across + s];
                by_key = s < r ? -beta[r] * by_key : T(0);
                by_w = s < r ? -beta[r] * by_w : T(0);
            }
        }
        // The contributions of W K^T, and of W W^T from both sides.
        product<left::rows, onto::sum>(tokens, channels, tokens, {dm, across}, {k, wide}, {dw, wide});
        product<left::columns, onto::sum>(tokens, channels, tokens, {dm, across}, {w, wide}, {dk, wide});
        product<left::rows, onto::sum>(tokens, channels, tokens, {da, across}, {w, wide}, {dw, wide});
        product<left::columns, onto::sum>(tokens, channels, tokens, {da, across}, {w, wide}, {dw, wide});
    }

  private:
    static void add_multiple(T factor, const T* from, T* to, index n) noexcept {
        const auto f = simd::broadcast(factor);
        for (index i = 0; i < n; i += simd::lanes<T>)
            simd::store(to + i,
                        simd::fma(f, simd::load(from + i), simd::load(static_cast<const T*>(to + i))));
    }
};

/// Memory of one backward call: the blocks of one kv head of the longest sequence, and one tile of queries.
template <class T>
struct path_gradient_scratch {
    index block, wide, value_wide, across;
    T *product, *product_t, *d_product;  // [blocks, channels, wide]
    T *keys, *d_keys;                    // at the ends of their blocks, [blocks, block, wide]
    T *keys_t, *values_t,
        *d_values;  // [blocks, wide, across], [.., value_wide, across], [.., block, value_wide]
    T* queries;     // of the tile, as they enter block j: [blocks, rows, wide]
    T *own, *d_out, *dq, *dq_before;           // of the tile
    T *share, *d_score, *through, *d_through;  // [rows, across]
    T *log_weight, *dot, *row_gate, *key_gate, *row_sum, *key_sum, *row;
    double *gates, *d_gates, *carry;  // [group, tokens] twice, [group]
    path_block<T> now;
    index bytes;

    path_gradient_scratch(const char* who, workspace_cutter cutter, const path_plan<T>& plan)
        : block(plan.options.block),
          wide(whole_packs<T>(plan.q.channels)),
          value_wide(whole_packs<T>(plan.v.channels)),
          across(whole_packs<T>(block)),
          now(who, cutter, block, plan.q.channels) {
        index longest = 0;
        for (index s = 0; s < plan.sequences(); ++s) longest = std::max(longest, plan.length_of(s));
        const index blocks = (longest + block - 1) / block, group = plan.group();
        const index rows = checked_product(who, "group * block must fit", {group, block});
        const auto cut = [&](T*& x, std::initializer_list<index> n) { x = cutter.template cut<T>(who, n); };
        for (T** x : {&product, &product_t, &d_product}) cut(*x, {blocks, wide, wide});
        for (T** x : {&keys, &d_keys}) cut(*x, {blocks, block, wide});
        cut(keys_t, {blocks, wide, across});
        cut(values_t, {blocks, value_wide, across});
        cut(d_values, {blocks, block, value_wide});
        cut(queries, {blocks, rows, wide});
        for (T** x : {&own, &dq, &dq_before}) cut(*x, {rows, wide});
        cut(d_out, {rows, value_wide});
        for (T** x : {&share, &d_score, &through, &d_through}) cut(*x, {rows, across});
        for (T** x : {&log_weight, &dot, &row_gate, &row_sum}) cut(*x, {rows});
        for (T** x : {&key_gate, &key_sum}) cut(*x, {group, across});
        cut(row, {std::max(wide, value_wide)});
        const index gated = plan.gated() ? longest : 0;
        gates = cutter.template cut<double>(who, {group, gated});
        d_gates = cutter.template cut<double>(who, {group, gated});
        carry = cutter.template cut<double>(who, {group});
        bytes = cutter.bytes();
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail
