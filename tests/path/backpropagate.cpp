// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/backpropagate.hpp>

#include <ropewalk/path/prefill.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;
using numbers = std::vector<double>;

/// Inputs, and a loss sum(out * target) whose gradients are wanted.
struct problem {
    rw::index batches = 1, tokens = 13, heads = 4, kv_heads = 2, channels = 8, value_channels = 6;
    numbers q, k, v, w, beta, log_gate, target;
    std::vector<rw::index> ends = {};
    std::optional<double> scale = {};

    explicit problem(rw::index n = 13, rw::index b = 1, bool gated = true) : batches(b), tokens(n) {
        q = noise(batches * tokens * heads * channels, 1);
        k = noise(batches * tokens * kv_heads * channels, 2);
        v = noise(batches * tokens * kv_heads * value_channels, 3);
        w = unit_rows(batches * tokens * kv_heads, channels, 4);
        beta = noise(batches * tokens * kv_heads, 5, {.centre = 1, .width = 0.9});
        target = noise(batches * tokens * heads * value_channels, 7);
        if (!gated) return;
        for (double g : noise(batches * tokens * heads, 6, {.centre = -1.01})) log_gate.push_back(g);
    }
    template <class T>
    rw::heads_view<T> view(std::vector<T>& x, rw::index h, rw::index c) const {
        return {x.data(), {batches, tokens, h, c}};
    }
};

template <class T>
struct forward {
    std::vector<T> q, k, v, w, beta, gate, target, out, log_weight;
    explicit forward(const problem& p, bool naive = false, rw::index block = 4)
        : q(as<T>(p.q)),
          k(as<T>(p.k)),
          v(as<T>(p.v)),
          w(as<T>(p.w)),
          beta(as<T>(p.beta)),
          gate(as<T>(p.log_gate)),
          target(as<T>(p.target)),
          out(p.target.size()),
          log_weight(static_cast<std::size_t>(p.batches * p.tokens * p.heads)) {
        const path::attend_options<T> options{.block = block,
                                              .scale = p.scale,
                                              .log_gate = gate,
                                              .sequence_ends = p.ends,
                                              .log_weight = log_weight};
        const auto run = [&](auto call) {
            call(p.view(q, p.heads, p.channels), p.view(k, p.kv_heads, p.channels),
                 p.view(v, p.kv_heads, p.value_channels), p.view(w, p.kv_heads, p.channels), beta,
                 p.view(out, p.heads, p.value_channels), options);
        };
        if (naive)
            run([](auto... x) { path::attend_naive(x...); });
        else
            run([](auto... x) { path::attend(x...); });
    }
};

/// The loss by definition, in f64.
double loss(const problem& p) {
    const forward<double> f(p, true);
    double sum = 0;
    for (std::size_t i = 0; i < f.out.size(); ++i) sum += f.out[i] * p.target[i];
    return sum;
}

struct gradients {
    numbers q, k, v, w, beta, gate;
    bool operator==(const gradients&) const = default;
};

template <class T>
gradients run(const problem& p, rw::index block = 4, rw::index parts = 1) {
    forward<T> f(p, false, block);
    std::vector<T> dq(f.q.size(), T(7)), dk(f.k.size(), T(7)), dv(f.v.size(), T(7)), dw(f.w.size(), T(7)),
        d_beta(f.beta.size(), T(7)), d_gate(f.gate.size(), T(7));
    path::attend_options<T> options{
        .block = block, .scale = p.scale, .log_gate = f.gate, .sequence_ends = p.ends};
    const auto q = p.view(f.q, p.heads, p.channels), k = p.view(f.k, p.kv_heads, p.channels),
               v = p.view(f.v, p.kv_heads, p.value_channels);
    for (rw::index part = 0; part < parts; ++part) {
        options.part = {parts, part};
        std::vector<std::byte> memory(
            static_cast<std::size_t>(path::backpropagate_workspace(q, k, v, options)), std::byte{0x7f});
        path::backpropagate(
            rw::attention::gradient_tensors{q, k, v, p.view(f.out, p.heads, p.value_channels),
                                            p.view(f.target, p.heads, p.value_channels),
                                            std::span<const T>(f.log_weight), p.view(dq, p.heads, p.channels),
                                            p.view(dk, p.kv_heads, p.channels),
                                            p.view(dv, p.kv_heads, p.value_channels)},
            {p.view(f.w, p.kv_heads, p.channels), f.beta, p.view(dw, p.kv_heads, p.channels),
             p.view(d_beta, p.kv_heads, 1),
             f.gate.empty() ? rw::heads_view<T>() : p.view(d_gate, p.heads, 1)},
            memory, options);
    }
    return {widened(dq), widened(dk), widened(dv), widened(dw), widened(d_beta), widened(d_gate)};
}

/// Central differences of fourth order of the loss by every number of an input.
numbers differences(problem p, numbers problem::*input) {
    constexpr double h = 1e-3;
    numbers slopes;
    for (std::size_t i = 0; i < (p.*input).size(); ++i) {
        double& x = (p.*input)[i];
        const double at = x;
        const auto moved = [&](double by) {
            x = at + by;
            const double value = loss(p);
            x = at;
            return value;
        };
        slopes.push_back((8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h));
    }
    return slopes;
}

void check_all(const problem& p, rw::index block) {
    const gradients got = run<double>(p, block);
    CAPTURE(p.tokens, p.heads, p.kv_heads, block);
    CHECK(worst(got.q, differences(p, &problem::q)) < 1e-7);
    CHECK(worst(got.k, differences(p, &problem::k)) < 1e-7);
    CHECK(worst(got.v, differences(p, &problem::v)) < 1e-7);
    CHECK(worst(got.w, differences(p, &problem::w)) < 1e-7);
    CHECK(worst(got.beta, differences(p, &problem::beta)) < 1e-7);
    CHECK(worst(got.gate, differences(p, &problem::log_gate)) < 1e-7);
}

}  // namespace

TEST_CASE("path backpropagate: all six gradients are central differences of the definition",
          "[path][gradient]") {
    check_all(problem(13), 4);
    check_all(problem(9, 2, false), 3);
    problem ragged(14);
    ragged.ends = {5, 6, 14};
    check_all(ragged, 3);
    problem many(7);
    many.kv_heads = 1, many.channels = 5, many.value_channels = 3, many.scale = -0.7;
    many.q = noise(7 * 4 * 5, 1), many.k = noise(7 * 5, 2), many.v = noise(7 * 3, 3),
    many.w = unit_rows(7, 5, 4);
    many.beta = noise(7, 5, {.centre = 1, .width = 0.9}), many.target = noise(7 * 4 * 3, 7);
    check_all(many, 2);
    check_all(many, 64);
}

TEST_CASE("path backpropagate: the block does not matter, nor which part does it", "[path][gradient]") {
    problem p(150, 2);
    p.ends = {70, 150};
    const gradients want = run<double>(p, 1);
    for (rw::index block : {5, 16, 64, 100, 1000}) {
        const gradients got = run<double>(p, block);
        CHECK(worst(got.q, want.q) < 1e-11);
        CHECK(worst(got.k, want.k) < 1e-11);
        CHECK(worst(got.v, want.v) < 1e-11);
        CHECK(worst(got.w, want.w) < 1e-11);
        CHECK(worst(got.beta, want.beta) < 1e-11);
        CHECK(worst(got.gate, want.gate) < 1e-11);
        for (rw::index parts : {2, 3, 9}) CHECK(run<double>(p, block, parts) == got);
        const gradients narrow = run<float>(p, block);
        CHECK(worst(narrow.q, want.q) < 1e-4);
        CHECK(worst(narrow.k, want.k) < 1e-4);
        CHECK(worst(narrow.v, want.v) < 1e-4);
        CHECK(worst(narrow.w, want.w) < 1e-4);
        CHECK(worst(narrow.beta, want.beta) < 1e-4);
        CHECK(worst(narrow.gate, want.gate) < 1e-4);
    }
}

TEST_CASE("path backpropagate: sequences of a packed row are each by themselves",
          "[path][gradient][ragged]") {
    problem packed(13);
    packed.ends = {4, 5, 13};
    const gradients got = run<double>(packed, 3);
    problem alone = packed;
    alone.ends = {};
    alone.tokens = 8;
    const auto cut = [](numbers& x, rw::index each) { x.erase(x.begin(), x.begin() + 5 * each); };
    cut(alone.q, 32), cut(alone.k, 16), cut(alone.v, 12), cut(alone.w, 16), cut(alone.beta, 2),
        cut(alone.log_gate, 4), cut(alone.target, 24);
    const gradients one = run<double>(alone, 3);
    const auto tail = [](numbers x, rw::index each) { return numbers(x.begin() + 5 * each, x.end()); };
    CHECK(tail(got.q, 32) == one.q);
    CHECK(tail(got.k, 16) == one.k);
    CHECK(tail(got.v, 12) == one.v);
    CHECK(tail(got.w, 16) == one.w);
    CHECK(tail(got.beta, 2) == one.beta);
    CHECK(tail(got.gate, 4) == one.gate);
}

TEST_CASE("path backpropagate: views of beta, gates and gradients have any strides; 16-bit gradients",
          "[path][gradient]") {
    const problem p(11, 2);
    const gradients want = run<float>(p, 4);
    forward<float> f(p);
    // [batches, heads, tokens] for numbers a head, and keys with a canary between the rows.
    const auto turned = [&](const std::vector<float>& x, rw::index heads) {
        std::vector<float> y(x.size());
        for (rw::index b = 0; b < 2; ++b)
            for (rw::index n = 0; n < 11; ++n)
                for (rw::index h = 0; h < heads; ++h)
                    y[static_cast<std::size_t>((b * heads + h) * 11 + n)] =
                        x[static_cast<std::size_t>((b * 11 + n) * heads + h)];
        return y;
    };
    auto beta = turned(f.beta, 2), gate = turned(f.gate, 4);
    const auto first = [&](auto& x, rw::index heads) {
        return rw::heads_view<float>::heads_first(x.data(), {2, 11, heads, 1});
    };
    std::vector<float> dq(f.q.size()), dv(f.v.size()), dw(f.w.size() / 8 * 9, 5.0f), d_beta(beta.size()),
        d_gate(gate.size());
    std::vector<rw::bf16> dk(f.k.size());
    const path::attend_options<float> options{.block = 4, .log_gate = first(gate, 4)};
    const auto q = p.view(f.q, 4, 8), k = p.view(f.k, 2, 8), v = p.view(f.v, 2, 6);
    std::vector<std::byte> memory(static_cast<std::size_t>(path::backpropagate_workspace(q, k, v, options)));
    path::backpropagate(
        rw::attention::gradient_tensors{q, k, v, p.view(f.out, 4, 6), p.view(f.target, 4, 6),
                                        std::span<const float>(f.log_weight), p.view(dq, 4, 8),
                                        p.view(dk, 2, 8), p.view(dv, 2, 6)},
        {p.view(f.w, 2, 8), first(beta, 2), rw::heads_view<float>(dw.data(), {2, 11, 2, 8}, {198, 18, 9}),
         first(d_beta, 2), first(d_gate, 4)},
        memory, options);
    CHECK(widened(dq) == want.q);
    CHECK(widened(dv) == want.v);
    CHECK(worst(widened(dk), want.k) < 0.01);
    for (std::size_t i = 0; i < dw.size(); ++i)
        CHECK(static_cast<double>(dw[i]) == (i % 9 == 8 ? 5.0 : want.w[i / 9 * 8 + i % 9]));
    CHECK(turned(as<float>(want.beta), 2) == d_beta);
    CHECK(turned(as<float>(want.gate), 4) == d_gate);
}

TEST_CASE("path backpropagate: without query heads the gradients of keys are written, as zeros",
          "[path][gradient]") {
    problem p(5, 2, false);
    p.heads = 0;
    numbers none, dk(p.k.size(), 7), dv(p.v.size(), 7), dw(p.w.size(), 7), d_beta(p.beta.size(), 7);
    const auto q = p.view(none, 0, 8), o = p.view(none, 0, 6);
    for (const rw::index part : {0, 1}) {
        path::attend_options<double> options{.part = {2, part}};
        std::vector<std::byte> workspace(static_cast<std::size_t>(
            path::backpropagate_workspace(q, p.view(p.k, 2, 8), p.view(p.v, 2, 6), options)));
        path::backpropagate(rw::attention::gradient_tensors{q, p.view(p.k, 2, 8), p.view(p.v, 2, 6), o, o,
                                                            std::span<const double>(none), p.view(none, 0, 8),
                                                            p.view(dk, 2, 8), p.view(dv, 2, 6)},
                            {p.view(p.w, 2, 8), p.beta, p.view(dw, 2, 8), p.view(d_beta, 2, 1)},
                            std::span<std::byte>(workspace), options);
    }
    for (const auto* each : {&dk, &dv, &dw, &d_beta})
        for (const double g : *each) CHECK(g == 0);
}

TEST_CASE("path backpropagate: what does not fit is refused before anything is written",
          "[path][gradient][errors]") {
    const problem p(5);
    forward<float> f(p);
    std::vector<float> dq(f.q.size(), 3), dk(f.k.size(), 3), dv(f.v.size(), 3), dw(f.w.size(), 3),
        d_beta(10, 3), d_gate(20, 3);
    const auto q = p.view(f.q, 4, 8), k = p.view(f.k, 2, 8), v = p.view(f.v, 2, 6);
    std::vector<std::byte> memory(static_cast<std::size_t>(path::backpropagate_workspace(q, k, v)) + 4096);
    const auto with = [&](rw::index weights, rw::heads_view<float> by_beta, rw::heads_view<float> by_gate,
                          std::size_t bytes, path::attend_options<float> options) {
        return refusal([&] {
            path::backpropagate(
                rw::attention::gradient_tensors{
                    q, k, v, p.view(f.out, 4, 6), p.view(f.target, 4, 6),
                    std::span<const float>(f.log_weight).first(static_cast<std::size_t>(weights)),
                    p.view(dq, 4, 8), p.view(dk, 2, 8), p.view(dv, 2, 6)},
                {p.view(f.w, 2, 8), f.beta, p.view(dw, 2, 8), by_beta, by_gate},
                std::span(memory).first(bytes), options);
        });
    };
    const auto beta = p.view(d_beta, 2, 1), gate = p.view(d_gate, 4, 1);
    const auto all = memory.size();
    CHECK(with(19, beta, {}, all, {}) ==
          "path::backpropagate: log_weight must hold batches * tokens * heads numbers: wanted 20, got 19");
    CHECK(with(20, beta.token_slice(0, 4), {}, all, {}) ==
          "path::backpropagate: d_beta must be [batches, tokens, kv heads]: wanted [1, 5, 2, 1], got [1, 4, "
          "2, 1]");
    CHECK(with(20, beta, gate, all, {}) ==
          "path::backpropagate: d_log_gate must be empty without a gate, tokens, got 5");
    CHECK(with(20, beta, {}, all, {.log_gate = f.gate}) ==
          "path::backpropagate: d_log_gate must be [batches, tokens, heads]: wanted [1, 5, 4, 1], got [1, 0, "
          "0, 0]");
    CHECK(with(20, beta, {}, 100, {}) ==
          "path::backpropagate: workspace must hold backpropagate_workspace bytes, got 100");
    CHECK(with(20, beta, {}, all, {.part = {2, 2}}) ==
          "path::backpropagate: part must be one of parts, got 2");
    CHECK(with(20, beta, {}, all, {.block = 0}) == "path::backpropagate: block must be > 0, got 0");
    for (const auto* x : {&dq, &dk, &dv, &dw, &d_beta, &d_gate})
        CHECK(*x == std::vector<float>(x->size(), 3));
    CHECK(with(20, beta, {}, all, {}).empty());
    CHECK(d_beta != std::vector<float>(10, 3));
}
