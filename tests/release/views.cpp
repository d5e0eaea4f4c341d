// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// As contract_broken.cpp, for the calls above the kernels: a view without memory, a slice outside its view, or heads
// that meet in what is written. A hot call returns false, a cold one refuses; neither writes.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/adapters/phase_shift.hpp>
#include <ropewalk/adapters/road_gradient.hpp>
#include <ropewalk/analysis/frequency_usage.hpp>
#include <ropewalk/analysis/head_patterns.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/attention/self_extend.hpp>
#include <ropewalk/attention/sparse_index.hpp>
#include <ropewalk/attention/tiled_gradient.hpp>
#include <ropewalk/compression/key_codes.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/kernels/frequency_gradient.hpp>
#include <ropewalk/kernels/pope.hpp>
#include <ropewalk/path/decode.hpp>
#include <ropewalk/path/prefill.hpp>
#include <ropewalk/schemes/dropped_rope.hpp>
#include <ropewalk/schemes/rope_plus_plus.hpp>

#include <cmath>
#include <functional>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

using view = rw::heads_view<float>;
using constant = rw::heads_view<const float>;

std::vector<float> numbers(std::size_t count) {
    std::vector<float> v(count);
    for (std::size_t i = 0; i < count; ++i) v[i] = std::sin(float(i));
    return v;
}

/// Views of the right shape that no call may take.
std::vector<view> unreadable(view x) {
    return {{nullptr, x.shape, x.strides}, x.token_slice(0, x.tokens() + 1), x.head_slice(0, x.heads() + 1)};
}
std::vector<view> unwritable(view x) {
    auto all = unreadable(x);
    auto one_place = x;
    one_place.strides = {0, x.tokens() > 1 ? 1 : x.strides.token, x.heads() > 1 ? 1 : x.strides.head};
    all.push_back(one_place);
    return all;
}

}  // namespace

TEST_CASE("views: hot calls above the kernels refuse what they cannot read or write", "[release][views]") {
    auto a = numbers(5 * 2 * 8), b = numbers(5 * 2 * 8), c = numbers(4 * 16), d = numbers(5 * 4 * 12);
    const auto before = std::vector{a, b, c, d};
    const view keys(a.data(), 5, 2, 8), values(b.data(), 5, 2, 8), q(c.data(), 1, 4, 8),
        out(d.data(), 1, 4, 8), w(c.data() + 32, 1, 2, 8);
    const std::vector<float> beta{0.5f, 0.25f};
    std::vector<float> scores(20), scratch(4 * (5 + 8));
    const auto untouched = [&] {
        return a == before[0] && b == before[1] && c == before[2] && d == before[3];
    };

    const rw::path::decode_step<float> good{.q = q, .k = w, .transform = {w, beta}};
    const auto decodes = [&](rw::path::decode_step<float> step, view k, view v, view to) {
        return rw::path::decode(step, k, v, to, scratch);
    };
    for (const view& bad : unwritable(keys)) {
        CHECK_FALSE(rw::path::update_keys(bad, {w, beta}));
        CHECK_FALSE(rw::path::update_keys_and_score(bad, {w, beta}, q, scores));
        CHECK_FALSE(decodes(good, bad, values, out));
    }
    for (const view& bad : unreadable(w)) {
        CHECK_FALSE(rw::path::update_keys(keys, {bad, beta}));
        auto step = good;
        step.k = bad;
        CHECK_FALSE(decodes(step, keys, values, out));
    }
    for (const view& bad : unreadable(q)) {
        CHECK_FALSE(rw::path::update_keys_and_score(keys, {w, beta}, bad, scores));
        auto step = good;
        step.q = bad;
        CHECK_FALSE(decodes(step, keys, values, out));
    }
    for (const view& bad : unreadable(values)) CHECK_FALSE(decodes(good, keys, bad, out));
    for (const view& bad : unwritable(out)) CHECK_FALSE(decodes(good, keys, values, bad));

    rw::row_attention<float> attention(
        {.heads = 4, .key_channels = 8, .value_channels = 8, .own_channels = 8});
    const rw::row_choice five{.count = 5};
    for (const view& bad : unreadable(q)) {
        CHECK_FALSE(attention.attend(bad, keys, values, out, five));
        CHECK_FALSE(attention.attend(q, keys, values, out, five, bad, keys));
    }
    for (const view& bad : unreadable(keys)) {
        CHECK_FALSE(attention.attend(q, bad, values, out, five));
        CHECK_FALSE(attention.attend(q, keys, bad, out, five));
        CHECK_FALSE(attention.attend(q, keys, values, out, five, q, bad));
    }
    for (const view& bad : unwritable(out)) CHECK_FALSE(attention.attend(q, keys, values, bad, five));
    const view two_sequences(a.data(), {2, 1, 2, 8});
    CHECK_FALSE(attention.attend(q, two_sequences, two_sequences, out, {.count = 1}));

    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(5));
    const auto rows = table.rows();
    const view wide(d.data(), 5, 2, 12);
    for (const view& bad : unreadable(keys))
        CHECK_FALSE(rw::pope::widen(rw::half_split{}, constant(bad), wide, rows));
    for (const view& bad : unwritable(wide))
        CHECK_FALSE(rw::pope::widen(rw::half_split{}, constant(keys), bad, rows));
    CHECK_FALSE(rw::pope::widen(rw::half_split{}, constant(keys), wide, rows, {0, 0}));
    for (const view& bad : unwritable(keys))
        CHECK_FALSE(rw::pope::widen_gradient(rw::half_split{}, constant(values), constant(wide), bad, rows));

    const rw::self_extend logarithmic({.group = 2, .window = 2, .scale_base = 2.0});
    for (const view& bad : unwritable(keys)) CHECK_FALSE(logarithmic.scale_queries(bad));
    CHECK(untouched());
    CHECK(decodes(good, keys, values, out));
    CHECK(attention.attend(q, keys, values, out, five));
    CHECK(rw::pope::widen(rw::half_split{}, constant(keys), wide, rows));
    CHECK(logarithmic.scale_queries(keys));
    CHECK_FALSE(untouched());
}

#if defined(__cpp_exceptions)
TEST_CASE("views: cold calls name what they cannot read or write", "[release][views]") {
    auto a = numbers(5 * 2 * 8), b = numbers(5 * 2 * 8), c = numbers(5 * 2 * 8), d = numbers(5 * 4 * 12);
    const auto before = std::vector{a, b, c, d};
    const view x(a.data(), 5, 2, 8), y(b.data(), 5, 2, 8), z(c.data(), 5, 2, 8), out(d.data(), 5, 2, 8);
    const std::vector<float> weight(16, 1.0f), eight(8, 1.0f), beta(10, 0.5f), log_weight(10);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(5));
    std::vector<std::byte> workspace(std::size_t(rw::attention::attend_gradient_workspace(x, y) +
                                                 rw::attention::attend_workspace(x, y, z)));
    const auto whole = std::span(workspace);
    const rw::attention::causal_mask causal;
    std::vector<double> omega(2 * 4);
    const auto exact = rw::make_rotation_table<double>(rw::frequencies::geometric({.rotary_dim = 8}),
                                                       rw::position_ids::text(5));
    const rw::road::adapter adapter({.channels = 8, .group = 4});
    const auto text = rw::position_ids::text(5);
    const auto codes = rw::key_codes::encode_channels<float>({}, x);
    rw::attention::linear_state<float> state({.kv_heads = 2, .channels = 8, .value_channels = 8});
    const rw::phase_shift::parameters<float> phases = rw::phase_shift::make_initial<float>(2, 8);

    const std::function<void(view)> reads[] = {
        [&](view bad) { rw::attention::attend(causal, bad, y, z, out, whole); },
        [&](view bad) { rw::attention::attend(causal, x, bad, z, out, whole); },
        [&](view bad) { rw::attention::attend(causal, x, y, bad, out, whole); },
        [&](view bad) {
            rw::attention::attend_gradient(
                causal,
                rw::attention::gradient_tensors{x, y, z, out, bad, std::span<const float>(log_weight), x, y,
                                                z},
                whole);
        },
        [&](view bad) { rw::path::attend(bad, y, z, x, beta, out); },
        [&](view bad) { rw::path::attend(x, bad, z, x, beta, out); },
        [&](view bad) { rw::path::attend(x, y, z, bad, beta, out); },
        [&](view bad) { rw::rope_plus_plus::widen_queries(bad, out); },
        [&](view bad) { rw::accumulate_omega_gradient(rw::half_split{}, bad, y, text, omega); },
        [&](view bad) { rw::accumulate_omega_gradient(rw::half_split{}, y, bad, text, omega); },
        [&](view bad) { static_cast<void>(rw::key_codes::encode_channels<float>({}, bad)); },
        [&](view bad) { static_cast<void>(rw::analysis::make_pair_norms(rw::half_split{}, bad)); },
        [&](view bad) {
            static_cast<void>(
                rw::analysis::make_head_patterns(rw::half_split{}, x, bad, exact.rows(), {.distances = 2}));
        },
        [&](view bad) { static_cast<void>(rw::road::make_gradient(adapter, x, bad)); },
        [&](view bad) { state.append(bad, y, table); },
        [&](view bad) { state.read(bad, out, table); },
    };
    const std::function<void(view)> writes[] = {
        [&](view bad) { rw::attention::attend(causal, x, y, z, bad, whole); },
        [&](view bad) {
            rw::attention::attend_gradient(
                causal,
                rw::attention::gradient_tensors{x, y, z, out, out, std::span<const float>(log_weight), x, bad,
                                                z},
                whole);
        },
        [&](view bad) { rw::path::attend(x, y, z, x, beta, bad); },
        [&](view bad) { rw::path::fill_key_cache(x, y, beta, bad); },
        [&](view bad) { rw::rope_plus_plus::widen_queries(x, bad); },
        [&](view bad) { rw::dropped_rope::normalize_tokens(bad, std::span<const float>(weight), 1e-6); },
        [&](view bad) {
            rw::sparse_index::normalize_keys(bad, std::span<const float>(eight),
                                             std::span<const float>(eight));
        },
        [&](view bad) { rw::sparse_index::hadamard(bad); },
        [&](view bad) { rw::phase_shift::calibrate(phases, bad); },
        [&](view bad) { rw::key_codes::decode_channels({}, codes, bad); },
        [&](view bad) { state.read(x, bad, table); },
    };
    int number = 0;
    for (const auto& call : reads) {
        INFO("read " << number++);
        for (const view& bad : unreadable(x)) CHECK_FALSE(support::refusal([&] { call(bad); }).empty());
    }
    number = 0;
    for (const auto& call : writes) {
        INFO("written " << number++);
        for (const view& bad : unwritable(out)) CHECK_FALSE(support::refusal([&] { call(bad); }).empty());
    }
    CHECK((a == before[0] && b == before[1] && c == before[2] && d == before[3]));
    CHECK(state.tokens() == 0);
    // Sizes that a decoder takes from its caller.
    CHECK_REFUSES("key_codes::decode_channels: exact_tokens must be in 0 .. tokens, got -1",
                  rw::key_codes::decode_channels({.exact_tokens = -1}, codes, out));
    CHECK_REFUSES("key_codes::decode_polar: angle_bits must be in 1 .. 8, got 40",
                  rw::key_codes::decode_polar({.angle_bits = 40}, {}, out));
    const std::vector<rw::index> order{0, 9};
    CHECK_REFUSES("key_codes::decode_groups: order must hold channels, got 9",
                  rw::key_codes::decode_groups(
                      {.group = 2}, {.codes = {1, 2}, .low = {0}, .step = {1}, .zero = {0}}, order));
}
#endif
