// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rows of single heads: a token of a negative row is left alone as it is where all heads share a row.
#include <ropewalk/kv/prepare_attention.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>

#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::heads_buffer;

namespace {

const rw::layout_slice slice{.read = rw::half_split{}, .first_channel = 3};
constexpr rw::index tokens = 3, heads = 2, channels = 64, pairs = 20;
const std::vector<std::int64_t> slots = {5, 1, 6}, touched = {5, -1, 6};

/// Rows of two heads for three tokens, of which the second has none.
struct rows_of_heads {
    rw::rotation_table<float> table{2, heads, pairs, 1};
    std::vector<std::int32_t> row_of_token = {1, -1, 0};
    rows_of_heads() {
        for (rw::index r = 0; r < 2; ++r)
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index i = 0; i < pairs; ++i) {
                    const auto angle = static_cast<float>(r * 5 + h * 3 + i);
                    table.cos_data(r, h)[i] = std::cos(angle), table.sin_data(r, h)[i] = std::sin(angle);
                }
    }
    rw::rows_view<float> rows() const { return table.rows(row_of_token); }
};

template <class D>
void check_append() {
    const rows_of_heads of;
    heads_buffer<float> k({1, tokens, heads, channels}), v({1, tokens, heads, channels});
    k.fill(1), v.fill(2);
    for (const bool fused : {false, true}) {
        cache_buffer<D> cache({2, 4, heads, channels}, support::cache_order::nhd);
        std::vector<float> scales(2 * 2 * 4 * heads, 7.0f);
        rw::append_call<float, D> call{
            .key = k.view(), .value = v.view(), .key_cache = cache.keys(), .value_cache = cache.values()};
        if constexpr (std::is_same_v<D, std::int8_t>) {
            call.key_scales = rw::cache_view<float>::nhd(scales.data(), {2, 4, heads, 1});
            call.value_scales = rw::cache_view<float>::nhd(scales.data() + 2 * 4 * heads, {2, 4, heads, 1});
        }
        const auto plan = rw::make_append_plan(call, slots);
        if (fused) {
            const rw::prepare_call<float, float, D> all{.new_rows = call};
            CHECK(rw::prepare_attention(slice, all, plan, of.rows()));
        } else {
            CHECK(rw::append(slice, call, plan, of.rows()));
        }
        CHECK(cache.nothing_else_written(rw::cache_plan(touched, 2, 4)));
        if constexpr (std::is_same_v<D, std::int8_t>)
            for (rw::index h = 0; h < heads; ++h) {
                CHECK(*call.key_scales.at(0, 1, h) == 7);
                CHECK(*call.value_scales.at(0, 1, h) == 7);
            }
    }
}

}  // namespace

TEST_CASE("rows of single heads: append writes nothing for a token of a negative row", "[kv][append]") {
    check_append<float>();
    check_append<rw::bf16>();
    check_append<std::int8_t>();
    check_append<rw::f8_e4m3>();
}

TEST_CASE("rows of single heads: a token of a negative row is not normalised", "[kernels][norm]") {
    const rows_of_heads of;
    const std::vector<float> weight(channels, 2.0f);
    for (const auto untouched : {rw::untouched_tokens::left_alone, rw::untouched_tokens::normalised}) {
        heads_buffer<float> q({1, tokens, heads, channels});
        q.fill(1);
        const auto before = q.dense();
        CHECK(rw::normalize_and_rotate(
            slice, q.view(),
            rw::norm_view<float>{.weight = weight.data(), .channels = channels, .eps = 1e-6f}, of.rows(),
            {.untouched = untouched}));
        const auto after = q.dense();
        constexpr std::size_t row = heads * channels;
        const bool same = std::equal(before.begin() + row, before.begin() + 2 * row, after.begin() + row);
        CHECK(same == (untouched == rw::untouched_tokens::left_alone));
        CHECK_FALSE(std::equal(before.begin(), before.begin() + row, after.begin()));
    }
}
