// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A program of its own with the assertions of hot calls off, as in a release build: what a broken contract
// must not do even then is write outside the view it was given.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/adapters/road_intervention.hpp>
#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/compression/latent_attention.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kv/append_latent.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/path/decode.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEST_CASE("a view that does not fit its rows is left alone", "[release]") {
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(4, 5));
    const rw::heads_shape shapes[] = {{1, 4, 2, 30}, {1, 4, 2, 64}, {1, 5, 2, 32}, {2, 4, 2, 32}};
    for (const auto& shape : shapes)
        for (rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
            heads_buffer<float> x(shape, 3);
            const auto before = x.fill(1).dense();
            rw::rotate(layout, x.view(), table);
            rw::rotate(layout, x.view(), x.view(), table);
            rw::unrotate(layout, x.view(), table);
            rw::rotate_into(layout, x.view(), x.view(), table);
            CHECK(support::same_bits(x.dense(), before));
            CHECK(x.canaries_alive());
        }
}

TEST_CASE("a group that does not divide the channels, rows past the table, a view of another shape",
          "[release]") {
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(4, 5));
    heads_buffer<float> x({1, 4, 2, 32}), y({1, 4, 1, 32});
    const auto before = x.fill(1).dense();
    rw::rotate(rw::pair_layout::blocked_by(12), x.view(), table);
    const std::int32_t wild[] = {4, 1000000000, 7, 4};
    rw::rows_view<float> rows = table.rows();
    rows.indices.narrow = wild;
    rw::rotate(rw::half_split{}, x.view(), rows);
    rw::normalize_and_rotate(rw::half_split{}, x.view(), rw::head_norm<float>({.channels = 32}), rows);
    rw::rotate_into(rw::half_split{}, y.fill(2).view(), x.view(), table);
    CHECK(support::same_bits(x.dense(), before));

    const std::vector<float> ones(16, 1.0f);
    const rw::pair_matrix_table<float> matrices(ones, ones, ones, ones, 16);
    rw::mix_pairs(rw::half_split{}, x.view(), matrices);  // one row for four tokens
    CHECK(support::same_bits(x.dense(), before));
}

TEST_CASE("a part that is none of the parts covers nothing", "[release]") {
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(8, 5));
    rw::rotary_scheme deepseek{
        .head_dim = 32, .rotary_dim = 32, .read_layout = rw::interleaved{}, .write_layout = rw::half_split{}};
    for (const rw::part_of part : {rw::part_of{4, 4}, {4, -1}, {0, 0}, {-2, 0}, {1, 1}, {20, 20}, {20, -3}}) {
        CHECK(rw::partition(8, part).count == 0);
        CHECK(rw::partition_tokens(8, part).tokens == 0);
        heads_buffer<float> x({1, 8, 2, 32}, 3);
        const auto before = x.fill(1).dense();
        rw::rotate(rw::half_split{}, x.view(), table, part);
        rw::rotate(deepseek, x.view(), table, part);
        CHECK(support::same_bits(x.dense(), before));
        CHECK(x.canaries_alive());
    }
}

TEST_CASE("heads wider than the scheme's, or too long to change their layout in place", "[release]") {
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 32}), rw::position_ids::text(8, 5));
    const rw::rotary_scheme rope{.head_dim = 32, .rotary_dim = 32};
    heads_buffer<float> packed({1, 8, 1, 64}, 3);
    const auto before = packed.fill(1).dense();
    rw::rotate(rope, packed.view(), table);
    rw::rotate(rope, packed.view(), packed.view(), table);
    CHECK(support::same_bits(packed.dense(), before));

    const auto long_table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 2048}),
                                                    rw::position_ids::text(1, 5));
    heads_buffer<float> x({1, 1, 1, 2048}, 3), y = x.fill(1);
    const auto whole = x.dense();
    rw::rotate_into(rw::layout_slice{.read = rw::interleaved{}, .write = rw::half_split{}}, x.view(), x.view(), long_table);
    CHECK(support::same_bits(x.dense(), whole));
    rw::rotate_into(rw::layout_slice{.read = rw::interleaved{}, .write = rw::half_split{}}, x.view(), y.view(), long_table);
    CHECK_FALSE(support::same_bits(y.dense(), whole));
}

TEST_CASE("a norm without its epsilon appends nothing", "[release]") {
    const std::vector<float> projected(20, 1.0f);
    std::vector<float> cache(20, 7.0f);
    const rw::heads_view<const float> row(projected.data(), 1, 1, 20);
    const rw::append_latent_call<float> call{
        .latent = row.channel_slice(0, 16),
        .rope_key = row.channel_slice(16, 4),
        .cache = rw::cache_view<float>::nhd(cache.data(),
                                            {.pages = 1, .page_tokens = 1, .heads = 1, .channels = 20})};
    const rw::head_norm<float> norm({.channels = 16});
    const auto plan = rw::make_append_latent_plan(call, norm.view(), std::vector<std::int64_t>{0});
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 4}), rw::position_ids::text(1));
    auto broken = norm.view();
    broken.eps = 0;
    rw::append_latent(rw::interleaved{}, call, broken, plan, table);
    CHECK(cache == std::vector<float>(20, 7.0f));
    rw::append_latent(rw::interleaved{}, call, norm, plan, table);
    CHECK(cache != std::vector<float>(20, 7.0f));
}

TEST_CASE("one angle a token: an odd view, a group that does not divide it, too few tokens", "[release]") {
    const rw::uniform_table<float> table(rw::position_ids::text(4, 5));
    const auto left_alone = [&](const rw::heads_shape& shape, rw::pair_layout layout) {
        heads_buffer<float> x(shape, 3);
        const auto before = x.fill(1).dense();
        rw::rotate(layout, x.view(), table);
        return support::same_bits(x.dense(), before) && x.canaries_alive();
    };
    CHECK(left_alone({1, 4, 2, 31}, rw::half_split{}));
    CHECK(left_alone({1, 4, 2, 32}, rw::pair_layout::blocked_by(12)));
    CHECK(left_alone({1, 5, 2, 32}, rw::half_split{}));
    CHECK(left_alone({2, 4, 2, 32}, rw::interleaved{}));
    CHECK(!left_alone({1, 4, 2, 32}, rw::interleaved{}));
}

TEST_CASE("latent attention over more rows than a cache has, or rows of another make", "[release]") {
    const rw::mla::config c{
        .hidden = 6, .heads = 1, .query_rank = 0, .latent = 4, .nope_dim = 2, .rope_dim = 2, .value_dim = 2};
    rw::latent_weights<float> w;
    w.wq = Eigen::MatrixXf::Ones(4, 6);
    w.wkv_a = Eigen::MatrixXf::Ones(6, 6);
    w.wkv_b = Eigen::MatrixXf::Ones(4, 4);
    w.key_norm.assign(4, 1.0f);
    rw::latent_attention<float> layer(c, w);
    auto swapped = c;
    swapped.latent = 2;
    swapped.rope_dim = 4;
    rw::latent_cache<float> cache(c), other(swapped);
    const std::vector<float> raw(6, 1.0f), norm(2, 1.0f), query(6, 1.0f);
    other.append(raw.data(), 1, norm);
    std::vector<float> out(4, 7.0f);
    layer.attend(query.data(), cache, 1000, out.data());
    layer.attend(query.data(), other, 1, out.data());
    CHECK(out == std::vector<float>(4, 7.0f));
}

TEST_CASE("a decode step without all of its parts writes nothing, neither its key nor a result",
          "[release]") {
    constexpr rw::index tokens = 3, d = 4;
    const std::vector<float> values(tokens * d, 2.0f), row(2 * d, 0.5f), beta{1.0f};
    const rw::heads_view<const float> one(row.data(), 1, 1, d), two(row.data(), 2, 1, d);
    const auto left_alone = [&](rw::path::decode_step<float> step) {
        std::vector<float> keys(tokens * d, 1.0f), out(d, 7.0f),
            scratch(static_cast<std::size_t>(rw::path::decode_scratch(tokens, 1, d)), 9.0f);
        const auto before = scratch;
        rw::path::decode(step, rw::heads_view<float>(keys.data(), tokens, 1, d),
                         rw::heads_view<const float>(values.data(), tokens, 1, d),
                         rw::heads_view<float>(out.data(), 1, 1, d), scratch);
        return keys == std::vector<float>(tokens * d, 1.0f) && out == std::vector<float>(d, 7.0f) &&
               scratch == before;
    };
    CHECK(left_alone({.q = one, .k = one, .transform = {one, {}}}));
    CHECK(left_alone({.q = one, .k = one, .transform = {two, beta}}));
    CHECK(left_alone({.q = two, .k = one, .transform = {one, beta}}));
    CHECK(left_alone({.q = one, .k = two, .transform = {one, beta}}));
    CHECK(!left_alone({.q = one, .k = one, .transform = {one, beta}}));
}

TEST_CASE("an intervention of other channels leaves a view alone", "[release]") {
    rw::road::intervention<float> turn(Eigen::MatrixXd::Identity(4, 8), {2, {2, 2}, {0, 0}, {0, 0}, {2, 2}});
    std::vector<float> x(12, 1.0f);
    turn.mix(rw::heads_view<float>(x.data(), 1, 1, 12));
    CHECK(x == std::vector<float>(12, 1.0f));
    turn.mix(rw::heads_view<float>(x.data(), 1, 1, 8));
    CHECK(x == std::vector<float>{2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1});
}
