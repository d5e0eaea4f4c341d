// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/decode.hpp>

#include <ropewalk/path/prefill.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace {

using namespace support;
namespace path = rw::path;

constexpr rw::index tokens = 21, heads = 6, kv_heads = 2, channels = 24, value_channels = 20;

struct stream {
    std::vector<double> q = noise(tokens * heads * channels, 1), k = noise(tokens * kv_heads * channels, 2),
                        v = noise(tokens * kv_heads * value_channels, 3),
                        w = unit_rows(tokens * kv_heads, channels, 4),
                        beta = noise(tokens * kv_heads, 5, {.centre = 1}),
                        log_gate = noise(tokens * heads, 6, {.centre = -1});
};

std::vector<double> prefilled(const stream& s) {
    std::vector<double> out(static_cast<std::size_t>(tokens * heads * value_channels));
    path::attend(rw::heads_view<const double>(s.q.data(), tokens, heads, channels),
                 rw::heads_view<const double>(s.k.data(), tokens, kv_heads, channels),
                 rw::heads_view<const double>(s.v.data(), tokens, kv_heads, value_channels),
                 {s.w.data(), tokens, kv_heads, channels}, s.beta,
                 rw::heads_view<double>(out.data(), tokens, heads, value_channels),
                 {.block = 8, .log_gate = s.log_gate});
    return out;
}

/// Prefills `first` tokens, then decodes the rest one by one on a cache of K.
template <class K>
std::vector<double> decoded(const stream& s, rw::index first, rw::index parts = 1) {
    using C = rw::compute_t<K>;
    const auto q = as<C>(s.q), k = as<C>(s.k), w = as<C>(s.w), beta = as<C>(s.beta);
    auto values = as<K>(s.v);
    std::vector<K> keys(k.size());
    std::vector<double> sums(static_cast<std::size_t>(tokens * heads));
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            sums[static_cast<std::size_t>(n * heads + h)] =
                s.log_gate[static_cast<std::size_t>(n * heads + h)] +
                (n ? sums[static_cast<std::size_t>((n - 1) * heads + h)] : 0);
    path::fill_key_cache(rw::heads_view<const C>(k.data(), first, kv_heads, channels),
                         {w.data(), first, kv_heads, channels},
                         std::span(beta).first(static_cast<std::size_t>(first * kv_heads)),
                         rw::heads_view<K>(keys.data(), first, kv_heads, channels), {.block = 4});
    std::vector<C> out(static_cast<std::size_t>(tokens * heads * value_channels));
    std::vector<C> scratch(static_cast<std::size_t>(path::decode_scratch(tokens, heads, value_channels)));
    for (rw::index n = first; n < tokens; ++n) {
        const auto at = [&](const std::vector<C>& x, rw::index count) {
            return rw::heads_view<const C>(x.data() + n * count * channels, 1, count, channels);
        };
        for (rw::index part = parts; part-- > 0;)
            path::decode<K>(
                {.q = at(q, heads),
                 .k = at(k, kv_heads),
                 .transform = {at(w, kv_heads),
                               std::span(beta).subspan(static_cast<std::size_t>(n * kv_heads), kv_heads)},
                 .scale = static_cast<C>(1 / std::sqrt(static_cast<double>(channels))),
                 .gate_sums = std::span(sums).first(static_cast<std::size_t>((n + 1) * heads)),
                 .part = {parts, part}},
                rw::heads_view<K>(keys.data(), n + 1, kv_heads, channels),
                rw::heads_view<K>(values.data(), n + 1, kv_heads, value_channels),
                rw::heads_view<C>(out.data() + n * heads * value_channels, 1, heads, value_channels),
                scratch);
    }
    return widened(out);
}

}  // namespace

TEST_CASE("path decode: token by token it is the prefill, from any point on", "[path][decode]") {
    const stream s;
    const auto want = prefilled(s);
    for (rw::index first : {0, 1, 7, 20}) {
        const auto tail = [&](const std::vector<double>& x) {
            return std::vector<double>(x.begin() + first * heads * value_channels, x.end());
        };
        CHECK(worst(tail(decoded<double>(s, first)), tail(want)) < 1e-13);
        CHECK(worst(tail(decoded<float>(s, first)), tail(want)) < 1e-5);
        // The keys are rounded at each of up to 20 steps.
        CHECK(worst(tail(decoded<rw::bf16>(s, first)), tail(want)) < 0.03);
        CHECK(worst(tail(decoded<rw::f16>(s, first)), tail(want)) < 0.004);
    }
}

TEST_CASE("path decode: no result depends on the parts", "[path][decode]") {
    const stream s;
    for (rw::index parts : {2, 3, 5}) {
        CHECK(decoded<double>(s, 3, parts) == decoded<double>(s, 3));
        CHECK(decoded<rw::bf16>(s, 3, parts) == decoded<rw::bf16>(s, 3));
    }
}
