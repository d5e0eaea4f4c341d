// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A misfit is only returned, as in contract_broken.cpp.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/compression/row_attention.hpp>

#include <limits>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("row_attention: more rows than the cache has, or one outside it, leaves out alone", "[release]") {
    const std::vector<float> q(8, 1.0f), k(10 * 4, 1.0f), v(10 * 4, 2.0f);
    std::vector<float> out(8, 7.0f);
    rw::row_attention<> attention({.heads = 2, .key_channels = 4, .value_channels = 4, .own_channels = 4});
    const rw::heads_view<const float> qv(q.data(), 1, 2, 4), kv(k.data(), 10, 1, 4);
    const rw::heads_view<float> to(out.data(), 1, 2, 4);
    const auto attend = [&](rw::index keys, rw::index values, const rw::row_choice& rows) {
        std::fill(out.begin(), out.end(), 7.0f);
        attention.attend(qv, kv.token_slice(0, keys), rw::heads_view<const float>(v.data(), values, 1, 4), to,
                         rows);
        return out == std::vector<float>(8, 2.0f);
    };
    const auto untouched = [&] { return out == std::vector<float>(8, 7.0f); };
    CHECK(attend(10, 10, {.count = 10}));
    for (const rw::index count : {rw::index{11}, std::numeric_limits<rw::index>::max(), rw::index{-1}}) {
        CHECK_FALSE(attend(10, 10, {.count = count}));
        CHECK(untouched());
    }
    CHECK_FALSE(attend(9, 10, {.count = 10}));
    CHECK(untouched());
    CHECK_FALSE(attend(10, 9, {.count = 10}));
    CHECK(untouched());
    std::vector<std::int32_t> listed{0, 3, 9};
    CHECK(attend(10, 10, {.listed = listed.data(), .count = 3}));
    for (const std::int32_t wrong : {10, -1, 2147483647}) {
        listed[1] = wrong;
        CHECK_FALSE(attend(10, 10, {.listed = listed.data(), .count = 3}));
        CHECK(untouched());
    }
    // The second part of the keys has rows of its own.
    std::fill(out.begin(), out.end(), 7.0f);
    attention.attend(qv, kv, kv, to, {.count = 10}, qv, kv.token_slice(0, 9));
    CHECK(untouched());
    attention.attend(qv, kv, kv, to, {.count = 9}, qv, kv.token_slice(0, 9));
    CHECK_FALSE(untouched());
}
