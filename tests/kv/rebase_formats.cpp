// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Position-independent caching in a paged cache of every format: blocks computed at position 0, moved to where
// they are used, and the drift of moves one after the other.

#include <ropewalk/kv/rebase.hpp>

#include <cmath>

#include <ropewalk/core/block_types.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kv/append.hpp>
#include <ropewalk/kv/shift_keys.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 2, channels = 64, pages = 4, page_tokens = 4, tokens = 11;

template <class D>
constexpr rw::shifted_storage storage_of() {
    if constexpr (std::is_same_v<D, float>) return rw::shifted_storage::f32;
    if constexpr (std::is_same_v<D, rw::f16>) return rw::shifted_storage::f16;
    if constexpr (std::is_same_v<D, rw::bf16>) return rw::shifted_storage::bf16;
    if constexpr (std::is_same_v<D, std::int8_t>) return rw::shifted_storage::int8;
    if constexpr (std::is_same_v<D, rw::f8_e4m3>) return rw::shifted_storage::f8_e4m3;
    if constexpr (std::is_same_v<D, rw::f8_e5m2>) return rw::shifted_storage::f8_e5m2;
    return std::is_same_v<D, rw::q8_0> ? rw::shifted_storage::q8_0 : rw::shifted_storage::q4_0;
}

/// A paged cache of keys whose tokens stand in slots out of order.
template <class D>
struct paged {
    std::vector<D> memory = std::vector<D>(static_cast<std::size_t>(pages * page_tokens * heads * channels) /
                                           static_cast<std::size_t>(rw::numbers_in<D>));
    std::vector<float> scales = std::vector<float>(static_cast<std::size_t>(pages * page_tokens * heads));
    static constexpr float scale = 0.0625F;  // of f8
    rw::cache_view<D> keys = rw::cache_view<D>::nhd(memory.data(), {pages, page_tokens, heads, channels});
    rw::cache_view<float> key_scales =
        rw::cache_view<float>::nhd(scales.data(), {pages, page_tokens, heads, 1});

    rw::cache_plan append(std::vector<float> k, const rw::rotation_table<float>& rows) {
        rw::append_call<float, D> call{.key = rw::heads_view<float>(k.data(), tokens, heads, channels),
                                       .key_cache = keys};
        if constexpr (std::is_same_v<D, std::int8_t>) call.key_scales = key_scales;
        call.key_scale = scale;
        const std::vector<std::int64_t> slots{9, 8, 3, 2, 1, 0, 15, 14, 7, 4, 12};
        const auto plan = rw::make_append_plan(call, slots);
        CHECK(rw::append(rw::half_split{}, call, plan, rows));
        return plan;
    }
    bool shift(const rw::cache_plan& plan, const rw::rotation_table<float>& rows) {
        rw::shift_options options;
        if constexpr (std::is_same_v<D, std::int8_t>) options.scales = key_scales;
        options.scale = scale;
        return rw::shift_keys(rw::half_split{}, keys, plan, rows, options);
    }
    std::vector<double> numbers(const rw::cache_plan& plan) const {
        std::vector<double> all;
        for (rw::index n = 0; n < tokens; ++n)
            for (rw::index h = 0; h < heads; ++h) {
                const auto place = plan.place(n);
                const D* const from = keys.at(place.page, place.token, h);
                if constexpr (rw::is_block<D>) {
                    float block[32];
                    for (rw::index b = 0; b < channels / 32; ++b) {
                        rw::decode_block(from[b], block);
                        all.insert(all.end(), block, block + 32);
                    }
                } else {
                    for (rw::index c = 0; c < channels; ++c) {
                        double v = static_cast<double>(static_cast<float>(from[c]));
                        if constexpr (std::is_same_v<D, std::int8_t>)
                            v *= static_cast<double>(*key_scales.at(place.page, place.token, h));
                        if constexpr (rw::is_f8<D>) v *= static_cast<double>(scale);
                        all.push_back(v);
                    }
                }
            }
        return all;
    }
};

/// `x` rotated at a position a token, by plain loops.
std::vector<double> rotated(std::vector<double> x, const rw::spectrum& s, const std::vector<double>& at) {
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index i = 0; i < channels / 2; ++i) {
                double& a = x[std::size_t((n * heads + h) * channels + i)];
                double& b = x[std::size_t((n * heads + h) * channels + i + channels / 2)];
                const long double angle = static_cast<long double>(at[std::size_t(n)]) * s.omega(i);
                const long double u = a, v = b;
                a = double(u * std::cos(angle) - v * std::sin(angle));
                b = double(u * std::sin(angle) + v * std::cos(angle));
            }
    return x;
}

/// The largest distance of a head from what it should be over its length.
double drift(const std::vector<double>& got, const std::vector<double>& want) {
    double worst = 0;
    for (std::size_t head = 0; head < got.size(); head += channels) {
        double length = 0, off = 0;
        for (std::size_t c = head; c < head + channels; ++c)
            length += want[c] * want[c], off += (got[c] - want[c]) * (got[c] - want[c]);
        worst = std::max(worst, std::sqrt(off / length));
    }
    return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("rebase: blocks computed at 0 are moved to where they are used, in every format",
                   "[kv][rebase]", float, rw::f16, rw::bf16, std::int8_t, rw::f8_e4m3, rw::f8_e5m2, rw::q8_0,
                   rw::q4_0) {
    const auto s = rw::frequencies::geometric({.rotary_dim = channels, .base = 1e4});
    const std::vector<rw::index> lengths{5, 2, 4};
    const std::vector<double> deltas{1000, 3, 70};
    const auto k = support::noise(tokens * heads * channels, 1);
    paged<TestType> cache;
    const auto plan =
        cache.append(support::as<float>(k), rw::make_rotation_table(s, rw::block_positions(lengths)));
    const auto stored = cache.numbers(plan);
    CHECK(cache.shift(plan, rw::make_block_move_table(s, lengths, rw::position_ids::from(deltas))));
    std::vector<double> of_token;
    for (std::size_t b = 0; b < lengths.size(); ++b)
        of_token.insert(of_token.end(), std::size_t(lengths[b]), deltas[b]);
    const double bound = rw::shift_drift_bound(storage_of<TestType>(), 1, channels);
    const double off = drift(cache.numbers(plan), rotated(stored, s, of_token));
    CAPTURE(off, bound);
    CHECK(off <= bound);
    CHECK(off > bound / 200);  // and the bound says something
    // The same cache, moved back by a row a token: within two moves of what was stored.
    for (double& d : of_token) d = -d;
    CHECK(cache.shift(plan, rw::make_shift_table(s, rw::position_ids::from(of_token))));
    CHECK(drift(cache.numbers(plan), stored) <= rw::shift_drift_bound(storage_of<TestType>(), 2, channels));
}

TEMPLATE_TEST_CASE("rebase: shifts one after the other stay within the stated drift, in every format",
                   "[kv][rebase]", float, rw::f16, rw::bf16, std::int8_t, rw::f8_e4m3, rw::f8_e5m2, rw::q8_0,
                   rw::q4_0) {
    const auto s = rw::frequencies::geometric({.rotary_dim = channels, .base = 1e6});
    const auto k = support::noise(tokens * heads * channels, 2);
    paged<TestType> cache;
    const auto plan =
        cache.append(support::as<float>(k), rw::make_rotation_table(s, rw::position_ids::text(tokens)));
    const auto stored = cache.numbers(plan);
    const std::vector<double> one(tokens, 1.0);
    const auto step = rw::make_shift_table(s, rw::position_ids::from(one));
    for (int shifts = 1; shifts <= 40; ++shifts) {
        CHECK(cache.shift(plan, step));
        if (shifts != 1 && shifts != 5 && shifts != 40) continue;
        const double off =
            drift(cache.numbers(plan), rotated(stored, s, std::vector<double>(tokens, double(shifts))));
        CAPTURE(shifts, off);
        CHECK(off <= rw::shift_drift_bound(storage_of<TestType>(), shifts, channels));
    }
}
