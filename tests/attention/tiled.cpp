// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/attention/banded.hpp>
#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/attention/tiled_gradient.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/attention_case.hpp"
#include "support/attention_masks.hpp"
#include "support/catch.hpp"
#include "support/malloc_count.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using attention::attend;
using attention::both;
using support::all_sizes;
using support::as;
using support::attention_case;
using support::attention_sizes;
using support::for_each_mask;
using support::noise;
using support::worst;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
struct attended {
    std::vector<T> out;
    std::vector<rw::compute_t<T>> log_weight, probabilities;
};

/// attend over a case, with everything it can write.
template <class T, class Mask>
attended<T> run(const attention_case<T>& c, const Mask& mask,
                attention::tiled_options<rw::compute_t<T>> options = {}, bool probabilities = true) {
    const auto& s = c.sizes;
    attended<T> r{std::vector<T>(std::size_t(s.count(s.out()))),
                  std::vector<rw::compute_t<T>>(std::size_t(s.batches * s.queries * s.heads)),
                  std::vector<rw::compute_t<T>>(std::size_t(probabilities ? s.pairs() : 0), -1)};
    options.log_weight = r.log_weight;
    options.probabilities = r.probabilities;
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view(), options)),
        std::byte{0xff});
    attend(mask, c.q_view(), c.k_view(), c.v_view(), rw::heads_view<T>(r.out.data(), s.out()),
           std::span(workspace), options);
    return r;
}

}  // namespace

TEST_CASE("tiled attention: every mask gives the definition's results, f64", "[attention][tiled]") {
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto& seen, const auto& bias) {
            attention_case<double> c(s);
            c.define(seen, bias);
            const auto got = run(c, mask);
            INFO(name << ", " << s.queries << " queries");
            CHECK(worst(got.out, c.out) < 1e-13);
            CHECK(worst(got.probabilities, c.probabilities) < 1e-13);
            double off = 0;
            for (std::size_t i = 0; i < c.log_weight.size(); ++i)
                if (c.log_weight[i] != -infinity)
                    off = std::max(off, std::abs(got.log_weight[i] - c.log_weight[i]));
                else
                    CHECK(got.log_weight[i] == -infinity);
            CHECK(off < 1e-13);
        });
}

TEST_CASE("tiled attention: f32, f16 and bf16 storage computed in f32", "[attention][tiled]") {
    const auto check = [](auto tag, double storage_error) {
        using T = decltype(tag);
        for (const auto& s : all_sizes) {
            attention_case<T> c(s);
            c.define(
                [&](rw::index, rw::index, rw::index n, rw::index j) { return j <= s.keys - s.queries + n; });
            const auto got = run(c, attention::causal_mask{});
            INFO(s.queries << " queries, " << sizeof(T) << " bytes");
            CHECK(worst(got.out, c.out) < 3e-6 + storage_error);
            CHECK(worst(got.probabilities, c.probabilities) < 3e-6);
        }
    };
    check(float{}, 0);
    check(rw::f16{}, 1.7 * 0x1p-11);
    check(rw::bf16{}, 1.7 * 0x1p-8);
}

TEST_CASE("tiled attention: element types may differ, heads may lie anywhere", "[attention][tiled]") {
    const attention_sizes s{.batches = 2,
                            .queries = 60,
                            .keys = 75,
                            .heads = 6,
                            .kv_heads = 3,
                            .channels = 24,
                            .value_channels = 16};
    attention_case<rw::bf16> c(s);
    c.define([](auto...) { return true; });
    const auto q = as<float>(support::widened(c.q));
    // Keys heads first, in f32; values in bf16 with a gap after every head; the result in f64.
    std::vector<float> k(c.k.size());
    rw::heads_view<float> keys = rw::heads_view<float>::heads_first(k.data(), s.k());
    std::vector<rw::bf16> v(std::size_t(s.batches * s.keys * s.kv_heads * 20));
    const rw::heads_view<rw::bf16> values(v.data(), s.v(), {s.keys * s.kv_heads * 20, s.kv_heads * 20, 20});
    for (rw::index b = 0; b < s.batches; ++b)
        for (rw::index j = 0; j < s.keys; ++j)
            for (rw::index h = 0; h < s.kv_heads; ++h) {
                for (rw::index i = 0; i < s.channels; ++i)
                    keys.at(b, j, h)[i] = float(c.k_view().at(b, j, h)[i]);
                for (rw::index i = 0; i < s.value_channels; ++i)
                    values.at(b, j, h)[i] = c.v_view().at(b, j, h)[i];
            }
    std::vector<double> out(c.out.size());
    const rw::heads_view<const float> queries(q.data(), s.q());
    std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(queries, keys, values)));
    attend(attention::full_mask{}, queries, keys, values, rw::heads_view<double>(out.data(), s.out()),
           std::span(workspace));
    CHECK(worst(out, c.out) < 3e-6);
}

TEST_CASE("tiled attention: any tile size gives the result, any split into parts its bits",
          "[attention][tiled]") {
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto&, const auto&) {
            const attention_case<double> c(s);
            const auto whole = run(c, mask, {}, false);
            INFO(name << ", " << s.queries << " queries");
            for (rw::index query_tile : {1, 5, 24, 1000})
                for (rw::index key_tile : {1, 6, 48, 1000}) {
                    const auto got = run(c, mask, {.query_tile = query_tile, .key_tile = key_tile}, false);
                    CHECK(worst(got.out, whole.out) < 1e-12);
                }
            for (rw::index parts : {2, 3, 7}) {
                auto joined = whole;
                std::fill(joined.out.begin(), joined.out.end(), 9.0);
                for (rw::index part = 0; part < parts; ++part) {
                    attention::tiled_options<double> options{.log_weight = joined.log_weight,
                                                             .part = {parts, part}};
                    std::vector<std::byte> workspace(std::size_t(
                        attention::attend_workspace(c.q_view(), c.k_view(), c.v_view(), options)));
                    attend(mask, c.q_view(), c.k_view(), c.v_view(),
                           rw::heads_view<double>(joined.out.data(), s.out()), std::span(workspace), options);
                }
                CHECK(joined.out == whole.out);
                CHECK(joined.log_weight == whole.log_weight);
            }
        });
}

TEST_CASE("tiled attention: decode and prefill by chunks give prefill's result", "[attention][tiled]") {
    const attention_sizes s{.batches = 2,
                            .queries = 103,
                            .keys = 103,
                            .heads = 6,
                            .kv_heads = 2,
                            .channels = 20,
                            .value_channels = 12};
    const attention_case<double> c(s);
    for (rw::index window : {0, 30}) {
        const auto whole = run(c, attention::causal_mask{.window = window}, {}, false);
        for (rw::index chunk : {1, 4, 16, 50}) {
            std::vector<double> out(whole.out.size());
            const rw::heads_view<double> to(out.data(), s.out());
            for (rw::index first = 0; first < s.queries; first += chunk) {
                const rw::index count = std::min(chunk, s.queries - first);
                const auto q = c.q_view().token_slice(first, count);
                const auto k = c.k_view().token_slice(0, first + count),
                           v = c.v_view().token_slice(0, first + count);
                std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(q, k, v)));
                attend(attention::causal_mask{.window = window}, q, k, v, to.token_slice(first, count),
                       std::span(workspace));
            }
            CHECK(worst(out, whole.out) < 1e-12);
        }
    }
}

TEST_CASE("tiled attention: heads of one kv group give their bits alone", "[attention][tiled]") {
    const attention_sizes s{.queries = 70, .keys = 90, .heads = 6, .kv_heads = 3, .channels = 16};
    const attention_case<float> c(s);
    const auto whole = run(c, attention::causal_mask{}, {}, false);
    std::vector<float> out(whole.out.size());
    const rw::heads_view<float> to(out.data(), s.out());
    for (rw::index kv = 0; kv < 3; ++kv) {
        const auto q = c.q_view().head_slice(2 * kv, 2);
        const auto k = c.k_view().head_slice(kv, 1), v = c.v_view().head_slice(kv, 1);
        std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(q, k, v)));
        attend(attention::causal_mask{}, q, k, v, to.head_slice(2 * kv, 2), std::span(workspace));
    }
    CHECK(out == whole.out);
}

TEST_CASE("tiled attention: a hidden NaN or infinity stays hidden, a seen one shows", "[attention][tiled]") {
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto& seen, const auto& bias) {
            INFO(name << ", " << s.queries << " queries");
            for (const double poison : {not_a_number, infinity, -infinity})
                for (const rw::index key : {rw::index{0}, s.keys / 2, s.keys - 1}) {
                    attention_case<double> c(s);
                    const auto clean = run(c, mask);
                    for (rw::index b = 0; b < s.batches; ++b)
                        for (rw::index h = 0; h < s.kv_heads; ++h) {
                            const auto row = (b * s.keys + key) * s.kv_heads + h;
                            c.k[std::size_t(row * s.channels)] = poison;
                            c.v[std::size_t(row * s.value_channels)] = not_a_number;
                        }
                    const auto got = run(c, mask);
                    bool kept = true, shown = true;
                    for (rw::index b = 0, row = 0; b < s.batches; ++b)
                        for (rw::index n = 0; n < s.queries; ++n)
                            for (rw::index h = 0; h < s.heads; ++h, ++row) {
                                const auto first = std::size_t(row * s.value_channels);
                                const auto count = std::size_t(s.value_channels);
                                if (!seen(b, h, n, key))
                                    kept = kept && std::equal(got.out.begin() + long(first),
                                                              got.out.begin() + long(first + count),
                                                              clean.out.begin() + long(first));
                                else if (std::isnan(poison))
                                    shown = shown && std::isnan(got.out[first]);
                            }
                    CHECK(kept);
                    CHECK(shown);
                }
            static_cast<void>(bias);
        });
}

TEST_CASE("tiled attention: NaN among three keys, query by query", "[attention][tiled]") {
    const std::vector<double> one{1, 1, 1}, k{1, not_a_number, 1}, v{10, 20, 30},
        all_nan{not_a_number, not_a_number, not_a_number};
    const rw::heads_view<const double> q(one.data(), 3, 1, 1), keys(k.data(), 3, 1, 1),
        values(v.data(), 3, 1, 1);
    std::vector<double> out(3);
    const rw::heads_view<double> to(out.data(), 3, 1, 1);
    std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(q, keys, values)));
    attend(attention::causal_mask{}, q, keys, values, to, std::span(workspace));
    CHECK(out[0] == 10);
    CHECK(std::isnan(out[1]));
    CHECK(std::isnan(out[2]));
    attend(attention::causal_mask{}, rw::heads_view<const double>(all_nan.data(), 3, 1, 1), keys, values, to,
           std::span(workspace));
    for (const double x : out) CHECK(std::isnan(x));
    const std::vector<double> bias{0, -infinity, -infinity, 0, 0, -infinity, 0, -infinity, 0};
    attend(attention::dense_mask<double>{.added = bias}, q, keys, values, to, std::span(workspace));
    CHECK(out[0] == 10);
    CHECK(std::isnan(out[1]));
    CHECK(out[2] == 20);
}

TEST_CASE("tiled attention: a query that sees nothing gets zeros, large scores do not overflow",
          "[attention][tiled]") {
    attention_case<float> c({.queries = 20, .keys = 20, .channels = 16});
    const auto got = run(c, attention::causal_mask{.first_query = -12});
    for (std::size_t i = 0; i < got.out.size() / 20 * 12; ++i) CHECK(got.out[i] == 0);
    CHECK(got.log_weight[0] == -std::numeric_limits<float>::infinity());
    for (float& x : c.q) x *= 1e4f;
    c.define([](auto...) { return true; });
    const auto large = run(c, attention::full_mask{});
    for (const float x : large.out) CHECK(std::isfinite(x));
    const auto nothing = run(attention_case<float>({.queries = 3, .keys = 0}), attention::full_mask{});
    for (const float x : nothing.out) CHECK(x == 0);
    CHECK(run(attention_case<float>({.queries = 0, .keys = 4}), attention::full_mask{}).out.empty());
}

#if defined(TEST_COUNTS_MALLOC)
TEST_CASE("tiled attention: a call allocates nothing", "[attention][tiled]") {
    for (const rw::index queries : {1, 200}) {
        const attention_sizes s{.queries = queries, .keys = 200, .heads = 4, .kv_heads = 2, .channels = 48};
        const attention_case<rw::bf16> c(s);
        std::vector<float> out(std::size_t(s.count(s.out())));
        std::vector<std::int32_t> documents(std::size_t(s.keys));
        std::vector<std::byte> workspace(
            std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view())));
        const auto mask =
            both(attention::causal_mask{},
                 attention::document_mask{std::span(documents).first(std::size_t(queries)), documents});
        const std::size_t before = mallocs;
        attend(mask, c.q_view(), c.k_view(), c.v_view(), rw::heads_view<float>(out.data(), s.out()),
               std::span(workspace));
        CHECK(mallocs - before == 0);
    }
    const std::size_t before = mallocs;
    std::vector<int>(1).swap(*std::make_unique<std::vector<int>>());
    CHECK(mallocs > before);  // the count sees operator new
}

TEST_CASE("tiled attention: backward, banded attention and linear attention allocate nothing",
          "[attention][tiled]") {
    const attention_sizes s{
        .queries = 130, .keys = 130, .heads = 4, .kv_heads = 2, .channels = 20, .value_channels = 20};
    const attention_case<float> c(s);
    std::vector<float> out(std::size_t(s.count(s.out()))), log_weight(std::size_t(s.queries * s.heads)),
        dq(c.q), dk(c.k), dv(c.v);
    const rw::heads_view<float> to(out.data(), s.out());
    std::vector<std::byte> forward(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view()))),
        backward(std::size_t(attention::attend_gradient_workspace(c.q_view(), c.v_view())));
    const attention::banded_copies<const float, const float> copies{c.q_view(), c.k_view(), c.q_view(),
                                                                    c.k_view()};
    std::vector<std::byte> bands(std::size_t(attention::attend_banded_workspace(copies, c.v_view())));
    const auto table = rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = 20}),
                                                      rw::position_ids::text(130));
    attention::linear_state<float> state({.kv_heads = 2, .channels = 20, .value_channels = 20});
    const attention::causal_mask mask;
    const std::size_t before = mallocs;
    attend(mask, c.q_view(), c.k_view(), c.v_view(), to, std::span(forward), {.log_weight = log_weight});
    attention::attend_gradient(
        mask,
        attention::gradient_tensors{
            c.q_view(), c.k_view(), c.v_view(), rw::heads_view<const float>(to), to,
            std::span<const float>(log_weight), rw::heads_view<float>(dq.data(), s.q()),
            rw::heads_view<float>(dk.data(), s.k()), rw::heads_view<float>(dv.data(), s.v())},
        std::span(backward));
    attention::attend_banded(mask, copies, {.window = 40}, c.v_view(), to, std::span(bands));
    state.attend(c.q_view(), c.k_view(), c.v_view(), to, table);
    state.attend(c.q_view().token_slice(129, 1), c.k_view().token_slice(129, 1),
                 c.v_view().token_slice(129, 1), to.token_slice(129, 1), table.rows().token_slice(129, 1));
    CHECK(mallocs - before == 0);
}

TEST_CASE(
    "tiled attention: anchored documents, forward and backward, and a chunk with memory allocate nothing",
    "[attention][tiled][anchor][chunk]") {
    const attention_sizes s{
        .queries = 130, .keys = 130, .heads = 4, .kv_heads = 2, .channels = 20, .value_channels = 20};
    const attention_case<float> c(s);
    std::vector<float> out(std::size_t(s.count(s.out()))), log_weight(std::size_t(s.queries * s.heads)),
        dq(c.q), dk(c.k), dv(c.v);
    const rw::heads_view<float> to(out.data(), s.out());
    std::vector<std::byte> forward(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view()))),
        backward(std::size_t(attention::attend_gradient_workspace(c.q_view(), c.v_view())));
    attention::anchor_mask shared{std::vector<std::int32_t>(130, 1), true},
        copied{shared.document_start, false};
    shared.document_start[0] = copied.document_start[0] = 0;
    for (std::size_t n = 70; n < 130; ++n) shared.document_start[n] = copied.document_start[n] = 70;
    const attention::chunk_config config{.chunk = 130, .local_window = 32};
    const auto omega = rw::frequencies::geometric({.rotary_dim = 20});
    const std::vector<double> logits{0.3, -0.2, 0.7};
    const attention::chunk_tensors<float> chunk{.q = c.q_view(),
                                                .k = c.k_view(),
                                                .v = c.v_view(),
                                                .memory_k = c.k_view().token_slice(0, 5),
                                                .memory_v = c.v_view().token_slice(0, 5),
                                                .out = to};
    std::vector<std::byte> room(std::size_t(attention::attend_chunk_workspace(config, chunk)));
    const std::size_t before = mallocs;
    for (const auto* mask : {&shared, &copied}) {
        attend(*mask, c.q_view(), c.k_view(), c.v_view(), to, std::span(forward), {.log_weight = log_weight});
        attention::attend_gradient(
            *mask,
            attention::gradient_tensors{
                c.q_view(), c.k_view(), c.v_view(), rw::heads_view<const float>(to), to,
                std::span<const float>(log_weight), rw::heads_view<float>(dq.data(), s.q()),
                rw::heads_view<float>(dk.data(), s.k()), rw::heads_view<float>(dv.data(), s.v())},
            std::span(backward));
    }
    attention::attend_chunk(config, omega, chunk, 3, logits, std::span(room));
    CHECK(mallocs - before == 0);
    attention::attend_chunk(config, omega, chunk, 3, logits);
    CHECK(mallocs > before);  // the call without a workspace
}
#endif

TEST_CASE("tiled attention: the workspace does not grow with the tokens", "[attention][tiled]") {
    const rw::heads_view<const float> small(nullptr, 64, 8, 128), large(nullptr, 1 << 20, 8, 128);
    CHECK(attention::attend_workspace(small, small, small) ==
          attention::attend_workspace(large, large, large));
    CHECK(attention::attend_workspace(small, small, small) < 400 * 1024);
}

TEST_CASE("tiled attention: what does not fit is refused before anything is written", "[attention][tiled]") {
    const attention_case<float> c({.queries = 4, .keys = 6, .heads = 4, .kv_heads = 2});
    std::vector<float> out(128, 7);
    const rw::heads_view<float> to(out.data(), c.sizes.out());
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view())));
    const std::span<std::byte> space(workspace);
    const auto call = [&](const auto& mask, auto k, auto v, std::span<std::byte> memory,
                          const attention::tiled_options<float>& options = {}) {
        attend(mask, c.q_view(), k, v, to, memory, options);
    };
    const attention::full_mask full;
    const auto k = c.k_view(), v = c.v_view();
    CHECK_REFUSES("attend: k.heads must be > 0 and divide q.heads, got 0",
                  call(full, k.head_slice(0, 0), v, space));
    CHECK_REFUSES("attend: v.tokens must equal k.tokens: wanted 6, got 5",
                  call(full, k, v.token_slice(0, 5), space));
    CHECK_REFUSES("attend: k.channels must equal q.channels: wanted 8, got 4",
                  call(full, k.channel_slice(0, 4), v, space));
    CHECK_REFUSES("attend: workspace must hold attend_workspace bytes, got 100",
                  call(full, k, v, space.first(100)));
    CHECK_REFUSES("attend: part must be one of parts, got 2", call(full, k, v, space, {.part = {2, 2}}));
    CHECK_REFUSES("attend_workspace: key_tile must be > 0, got 0", call(full, k, v, space, {.key_tile = 0}));
    CHECK_REFUSES("attend: scale must be finite, got inf",
                  call(full, k, v, space, {.scale = std::numeric_limits<double>::infinity()}));
    std::vector<float> few(3);
    CHECK_REFUSES("attend: log_weight must hold batches * queries * heads numbers, got 3",
                  call(full, k, v, space, {.log_weight = few}));
    CHECK_REFUSES(
        "attend: probabilities must hold batches * heads * queries * keys numbers: wanted 96, got 3",
        call(full, k, v, space, {.probabilities = few}));
    CHECK(support::refusal([&] {
              call(full, k, v, space, {.query_tile = support::huge(62)});
          }).find("workspace must") != std::string::npos);
    for (const float x : out) CHECK(x == 7);
}
