// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A full cache and two ways to continue without reading the text again: drop old tokens, so that later keys
// move, or raise YaRN's factor, so that all frequencies and the magnitude change. Either is one rotation of
// the cached keys in place. Prints their relative distance from newly computed f32 keys.
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kv/append.hpp>
#include <ropewalk/kv/shift_keys.hpp>

namespace rw = ropewalk;

constexpr rw::index tokens = 2048, heads = 4, dim = 128, sinks = 4, kept = 516;  // between them 512 to drop

rw::spectrum yarn(double factor) {
    return rw::frequencies::yarn({.rotary_dim = dim, .factor = factor, .original_context = tokens});
}
/// Numbers for the sinks and for the later tokens, none for the dropped ones.
rw::position_ids after(rw::text_run of_sinks, rw::text_run later) {
    rw::position_ids at;
    return at.append(of_sinks).append(rw::untouched_run{kept - sinks}).append(later), at;
}

float number(const auto* x, rw::index i) { return static_cast<float>(x[i]); }
float number(const rw::q8_0* x, rw::index i) { return x[i / 32].codes[i % 32] * float(x[i / 32].scale); }
template <class D>
rw::cache_view<D> view(std::vector<D>& pool) {
    return rw::cache_view<D>::nhd(pool.data(), {1, tokens, heads, dim});
}

template <class D>
bool show(const char* name, const rw::cache_plan& plan, std::vector<float> x, double most) {
    const auto made = [&]<class E>(std::vector<E> pool, const rw::spectrum& s, const rw::position_ids& at) {
        const rw::append_call<float, E> call{.key = {x.data(), tokens, heads, dim}, .key_cache = view(pool)};
        rw::append(rw::half_split{}, call, plan, rw::make_rotation_table(s, at));
        return pool;
    };
    const auto apart = [&](std::vector<D> a, const std::vector<float>& b) {
        double sum = 0, size = 0;
        for (std::size_t i = kept * heads * dim; i < x.size(); ++i) {
            const double e = b[i] - number(a.data(), rw::index(i));
            sum += e * e, size += b[i] * b[i];
        }
        return std::sqrt(sum / size);
    };
    const auto text = rw::position_ids::text(tokens);
    const auto cache = made(std::vector<D>(x.size() / rw::numbers_in<D>), yarn(1), text);
    const auto dropped = made(x, yarn(1), after({sinks, 0, 1}, {tokens - kept, sinks, 1}));
    const auto longer = made(x, yarn(4), text);
    const auto shifted = [&](double by, int times) {
        auto now = cache;
        const auto table = rw::make_shift_table(yarn(1), after({sinks, 0, 0}, {tokens - kept, by, 0}));
        while (times-- > 0) rw::shift_keys(rw::half_split{}, view(now), plan, table);
        return apart(now, dropped);
    };
    auto now = cache;
    rw::shift_keys(rw::half_split{}, view(now), plan, rw::make_rebase_table(yarn(1), yarn(4), text));
    const double once = shifted(-512, 1), often = shifted(-8, 64), rebased = apart(now, longer);
    std::printf(
        "%-4s one shift of 512: %.1e, 64 shifts of 8: %.1e, factor from 1 to 4: %.1e (unmoved: %.2f)\n", name,
        once, often, rebased, apart(cache, longer));
    return once < most && rebased < most && often > once;
}

int main() {
    std::vector<int> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    const rw::cache_plan plan(slots, 1, tokens);
    std::mt19937 engine(1);
    std::vector<float> x(tokens * heads * dim);
    for (float& k : x) k = std::normal_distribution<float>()(engine);
    return show<float>("f32", plan, x, 1e-6) && show<rw::bf16>("bf16", plan, x, 0.01) &&
                   show<rw::q8_0>("q8_0", plan, x, 0.02)
               ? 0
               : 1;
}
