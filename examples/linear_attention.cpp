// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// RoFormer's linear attention: features are rotated in the numerator only. What does the rotation add, and
// what does a longer sequence cost, compared with softmax attention?
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/frequencies/geometric.hpp>

namespace rw = ropewalk;
using numbers = std::vector<float>;

namespace {

constexpr rw::index heads = 4, channels = 64, width = heads * channels;

numbers normal(rw::index tokens, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> draw;
    numbers x(std::size_t(tokens * width));
    for (float& value : x) value = draw(engine);
    return x;
}

template <class X>
auto view(X& x) {
    return rw::heads_view(x.data(), rw::index(x.size()) / width, heads, channels);
}

/// Causal; the same numbers are queries, keys and values. Positions from `first` on, `step` apart.
numbers linear(const numbers& x, double first, double step) {
    numbers out(x.size());
    const auto s = rw::frequencies::geometric({.rotary_dim = channels});
    const auto where = rw::position_ids(1).append(rw::text_run{view(x).tokens(), first, step});
    const auto table = rw::make_rotation_table(s, where);
    rw::attention::fill_linear_attention<float>(rw::half_split{}, rw::attention::causality::causal,
                                                {view(x), view(x), view(x), view(out)}, table);
    return out;
}

double distance(const numbers& a, const numbers& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double(a[i]) - double(b[i]), 2);
    return std::sqrt(sum / double(a.size()));
}

template <class F>
double milliseconds(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main() {
    const numbers x = normal(256, 1), plain = linear(x, 0, 1);
    const double moved = distance(plain, linear(x, 1e6, 1)), apart = distance(plain, linear(x, 0, 2)),
                 still = distance(plain, linear(x, 0, 0));
    std::printf(
        "change of the output: %.1e with all positions moved by a million, %.2f with tokens twice as far "
        "apart,\n%.2f with all tokens in one place (no rotation)\n",
        moved, apart, still);
    std::printf("%8s %12s %12s\n", "tokens", "linear, ms", "softmax, ms");
    for (rw::index tokens : {512, 1024, 2048}) {
        const numbers long_x = normal(tokens, 2);
        numbers out(long_x.size());
        const double line = milliseconds([&] { out = linear(long_x, 0, 1); });
        const double soft = milliseconds(
            [&] { rw::attend(view(long_x), view(long_x), view(long_x), view(out), {.causal = true}); });
        std::printf("%8td %12.1f %12.1f\n", tokens, line, soft);
    }
    return moved < 1e-4 && apart > 1e-2 && still > 1e-2 ? 0 : 1;
}
