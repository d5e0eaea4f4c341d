// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotate against the roof, against a plain table loop with the same flags, against rotate_half with
// temporaries and against llama2.c's loop; from a table and on the fly.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>

#include <cmath>
#include <memory>
#include <random>

#include "support/measure.hpp"
#include "support/worst_error.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index q_heads = 32, k_heads = 8, max_position = 8192;

/// The positions of a prefill, one behind the other, or of batched decode, anywhere.
enum class order { consecutive, random };

/// One case: q and k [tokens, heads, dim], and the rows of their positions.
template <class T>
struct work {
    using C = rw::compute_t<T>;
    rw::index tokens, dim;
    bench::tensor<T> q, k;
    std::vector<std::int32_t> positions;
    rw::spectrum rope;
    rw::position_table<C> table;

    work(rw::index n, rw::index d, order where = order::consecutive)
        : tokens(n),
          dim(d),
          q(bench::normal_numbers<T>(static_cast<std::size_t>(n * q_heads * d), 1)),
          k(bench::normal_numbers<T>(static_cast<std::size_t>(n * k_heads * d), 2)),
          rope(rw::frequencies::geometric({.rotary_dim = d})),
          table(rope, max_position, {.max_rows = max_position}) {
        std::mt19937 engine(3);
        std::uniform_int_distribution<std::int32_t> anywhere(0, max_position - 1);
        for (rw::index t = 0; t < n; ++t)
            positions.push_back(n == 1                        ? 5000
                                : where == order::consecutive ? static_cast<std::int32_t>(t)
                                                              : anywhere(engine));
    }
    rw::heads_view<T> qv() { return {q.data(), tokens, q_heads, dim}; }
    rw::heads_view<T> kv() { return {k.data(), tokens, k_heads, dim}; }
    double bytes() const { return 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(T)); }
    void roof() {
        bench::roof_pass(q);
        bench::roof_pass(k);
    }
};

// ---- what people write: baselines, compiled with the kernels' flags

template <class T>
using plain_element = std::conditional_t<(sizeof(T) > 2), rw::stored_t<T>, T>;

template <class Layout, class T, class C>
void plain_head(T* x, const C* cos, const C* sin, rw::index pairs) {
    for (rw::index i = 0; i < pairs; ++i) {
        T& a = x[Layout::first(i, pairs)];
        T& b = x[Layout::second(i, pairs)];
        const C u = static_cast<C>(a), v = static_cast<C>(b);
        a = static_cast<T>(u * cos[i] - v * sin[i]);
        b = static_cast<T>(u * sin[i] + v * cos[i]);
    }
}

template <class Layout, class T>
void plain_loop(work<T>& w) {
    const auto rows = w.table.rows(w.positions);
    for (rw::index n = 0; n < w.tokens; ++n) {
        const auto* cos = rows.cos_at(w.positions[static_cast<std::size_t>(n)], 0);
        const auto* sin = rows.sin_at(w.positions[static_cast<std::size_t>(n)], 0);
        for (rw::index h = 0; h < q_heads; ++h)
            plain_head<Layout>(w.q.data() + (n * q_heads + h) * w.dim, cos, sin, w.dim / 2);
        for (rw::index h = 0; h < k_heads; ++h)
            plain_head<Layout>(w.k.data() + (n * k_heads + h) * w.dim, cos, sin, w.dim / 2);
    }
}

/// q * cos + rotate_half(q) * sin with a temporary a step, as eager frameworks run it.
void rotate_half_with_temporaries(work<float>& w, bench::tensor<float>& half, bench::tensor<float>& left,
                                  bench::tensor<float>& right) {
    const auto rows = w.table.rows(w.positions);
    const rw::index pairs = w.dim / 2;
    const auto one = [&](bench::tensor<float>& x, rw::index heads) {
        for (rw::index t = 0; t < w.tokens * heads; ++t)
            for (rw::index i = 0; i < pairs; ++i) {
                half[static_cast<std::size_t>(t * w.dim + i)] =
                    -x[static_cast<std::size_t>(t * w.dim + pairs + i)];
                half[static_cast<std::size_t>(t * w.dim + pairs + i)] =
                    x[static_cast<std::size_t>(t * w.dim + i)];
            }
        const auto times = [&](const bench::tensor<float>& a, auto row_at, bench::tensor<float>& out) {
            for (rw::index t = 0; t < w.tokens * heads; ++t) {
                const float* row = row_at(w.positions[static_cast<std::size_t>(t / heads)], 0);
                for (rw::index i = 0; i < w.dim; ++i)
                    out[static_cast<std::size_t>(t * w.dim + i)] =
                        a[static_cast<std::size_t>(t * w.dim + i)] * row[i % pairs];
            }
        };
        times(
            x, [&](rw::index r, rw::index h) { return rows.cos_at(r, h); }, left);
        times(
            half, [&](rw::index r, rw::index h) { return rows.sin_at(r, h); }, right);
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = left[i] + right[i];
    };
    one(w.q, q_heads);
    one(w.k, k_heads);
}

/// powf, cosf and sinf for every pair of every head.
void angles_in_the_loop(work<float>& w) {
    const auto one = [&](bench::tensor<float>& x, rw::index heads) {
        for (rw::index t = 0; t < w.tokens * heads; ++t) {
            const auto position = static_cast<float>(w.positions[static_cast<std::size_t>(t / heads)]);
            float* head = x.data() + t * w.dim;
            for (rw::index i = 0; i < w.dim; i += 2) {
                const float angle =
                    position / std::pow(10000.0f, static_cast<float>(i) / static_cast<float>(w.dim));
                const float c = std::cos(angle), s = std::sin(angle);
                const float u = head[i], v = head[i + 1];
                head[i] = u * c - v * s;
                head[i + 1] = u * s + v * c;
            }
        }
    };
    one(w.q, q_heads);
    one(w.k, k_heads);
}

// ---- cases

/// Largest error of the rotated q against f64, on a fresh case.
template <class T, class Rotate>
double worst_error(rw::pair_layout layout, rw::index dim, Rotate rotate) {
    work<T> w(16, dim);
    auto before = bench::as_f64(w.q.data(), w.q.size());
    rotate(w);
    return bench::worst_error(layout, std::move(before), bench::as_f64(w.q.data(), w.q.size()), q_heads, dim,
                              rw::make_rotation_table<double>(w.rope, rw::position_ids::from(w.positions)));
}

template <class Layout, class T, bool Fly, order Where = order::consecutive>
void rotate_case(benchmark::State& state, rw::index tokens, rw::index dim) {
    work<T> w(tokens, dim, Where);
    const auto rows = w.table.rows(w.positions);
    const auto ours = [](work<T>& each, const auto& at) {
        if constexpr (Fly) {
            rw::rotate(Layout{}, each.qv(), each.kv(), rw::rows_on_the_fly(each.rope, each.positions));
        } else {
            rw::rotate(Layout{}, each.qv(), each.kv(), at);
        }
    };
    bench::compare(state, {.bytes = w.bytes(),
                           .roof = [&] { w.roof(); },
                           .contenders = {{"kernel", [&] { ours(w, rows); }},
                                          {"plain_loop", [&] { plain_loop<Layout>(w); }}}});
    state.counters["worst_error"] = worst_error<T>(
        Layout{}, dim, [&](work<T>& fresh) { ours(fresh, fresh.table.rows(fresh.positions)); });
    if (!bench::still_normal(w.q)) state.SkipWithError("the data did not stay normal numbers");
}

void rotate_half_case(benchmark::State& state, rw::index tokens, rw::index dim) {
    work<float> w(tokens, dim);
    bench::tensor<float> half(w.q.size()), left(w.q.size()), right(w.q.size());
    bench::compare(state,
                   {.bytes = w.bytes(),
                    .roof = [&] { w.roof(); },
                    .contenders = {{"kernel", [&] { rotate_half_with_temporaries(w, half, left, right); }}}});
}
void angles_in_the_loop_case(benchmark::State& state, rw::index tokens, rw::index dim) {
    work<float> w(tokens, dim);
    bench::compare(state, {.bytes = w.bytes(),
                           .roof = [&] { w.roof(); },
                           .contenders = {{"kernel", [&] { angles_in_the_loop(w); }}}});
}

template <class F>
void add(const std::string& what, rw::index tokens, rw::index dim, F run) {
    const std::string name = what + "/tokens:" + std::to_string(tokens) +
                             "/q_heads:" + std::to_string(q_heads) + "/k_heads:" + std::to_string(k_heads) +
                             "/dim:" + std::to_string(dim);
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { run(state, tokens, dim); })
        ->UseManualTime()
        ->Iterations(bench::turns)
        ->Unit(benchmark::kNanosecond);
}

template <class Layout, class T>
void add_layout(const std::string& layout, rw::index tokens, rw::index dim) {
    const std::string name = "rotate/" + layout + "/" + bench::dtype_name<T>();
    add(name + "/table", tokens, dim, rotate_case<Layout, T, false>);
    add(name + "/fly", tokens, dim, rotate_case<Layout, T, true>);
    if (tokens == 512)
        add(name + "/table/positions:random", tokens, dim, rotate_case<Layout, T, false, order::random>);
}

template <class T>
void add_dtype(rw::index tokens, rw::index dim) {
    add_layout<rw::half_split, T>("half_split", tokens, dim);
    add_layout<rw::interleaved, T>("interleaved", tokens, dim);
}

const int registered = [] {
    for (rw::index tokens : {1, 512, 4096}) {
        add_dtype<float>(tokens, 128);
        add_dtype<rw::bf16>(tokens, 128);
        add_dtype<rw::f16>(tokens, 128);
        add_dtype<double>(tokens, 128);
        add("baseline/rotate_half_temporaries/f32", tokens, 128, rotate_half_case);
        if (tokens < 4096) add("baseline/angles_in_the_loop/f32", tokens, 128, angles_in_the_loop_case);
    }
    for (rw::index dim : {64, 80, 96, 112, 192, 256})  // heads of other models
        for (rw::index tokens : {1, 512}) {
            add_dtype<float>(tokens, dim);
            add_dtype<rw::bf16>(tokens, dim);
            add_dtype<rw::f16>(tokens, dim);
        }
    return 0;
}();

}  // namespace
