// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled_gradient.hpp>

#include <cstddef>
#include <limits>
#include <random>
#include <vector>

#include "support/attention_case.hpp"
#include "support/attention_masks.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using support::all_sizes;
using support::as;
using support::attention_case;
using support::attention_sizes;
using support::for_each_mask;
using support::noise;
using support::worst;

namespace {

template <class T>
struct gradients {
    std::vector<T> dq, dk, dv;
};

template <class T, class Mask>
std::vector<T> forward(const attention_case<T>& c, const Mask& mask,
                       const attention::tiled_options<rw::compute_t<T>>& options = {}) {
    std::vector<T> out(std::size_t(c.sizes.count(c.sizes.out())));
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.q_view(), c.k_view(), c.v_view(), options)));
    attention::attend(mask, c.q_view(), c.k_view(), c.v_view(), rw::heads_view<T>(out.data(), c.sizes.out()),
                      std::span<std::byte>(workspace), options);
    return out;
}

template <class T, class Mask>
gradients<T> backward(const attention_case<T>& c, const Mask& mask, const std::vector<T>& d_out,
                      attention::tiled_options<rw::compute_t<T>> options = {}) {
    using C = rw::compute_t<T>;
    const auto& s = c.sizes;
    std::vector<C> log_weight(std::size_t(s.batches * s.queries * s.heads));
    const auto out = forward(c, mask, {.scale = options.scale, .log_weight = log_weight});
    gradients<T> g{std::vector<T>(c.q.size()), std::vector<T>(c.k.size()), std::vector<T>(c.v.size())};
    const attention::gradient_tensors tensors{c.q_view(),
                                              c.k_view(),
                                              c.v_view(),
                                              rw::heads_view<const T>(out.data(), s.out()),
                                              rw::heads_view<const T>(d_out.data(), s.out()),
                                              std::span<const C>(log_weight),
                                              rw::heads_view<T>(g.dq.data(), s.q()),
                                              rw::heads_view<T>(g.dk.data(), s.k()),
                                              rw::heads_view<T>(g.dv.data(), s.v())};
    for (rw::index part = 0, parts = options.part.parts; part < parts; ++part) {
        options.part = {parts, part};
        std::vector<std::byte> workspace(
            std::size_t(attention::attend_gradient_workspace(c.q_view(), c.v_view(), options)),
            std::byte{0xff});
        attention::attend_gradient(mask, tensors, std::span<std::byte>(workspace), options);
    }
    return g;
}

/// The largest difference between a gradient and central differences of sum(out * d_out), at some entries.
template <class Mask>
double difference_error(attention_case<double>& c, const Mask& mask, const std::vector<double>& d_out,
                        std::vector<double>& x, const std::vector<double>& gradient) {
    std::mt19937 engine(7);
    double most = 0;
    const auto loss_at = [&](double& entry, double value) {
        const double kept = entry;
        entry = value;
        const auto out = forward(c, mask);
        entry = kept;
        double sum = 0;
        for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
        return sum;
    };
    for (int sample = 0; sample < 12; ++sample) {
        const std::size_t at = engine() % x.size();
        const double step = 2e-5;
        const double slope = (loss_at(x[at], x[at] + step) - loss_at(x[at], x[at] - step)) / (2 * step);
        most = std::max(most, std::abs(slope - gradient[at]));
    }
    return most;
}

}  // namespace

TEST_CASE("tiled gradient: central differences under every mask, f64", "[attention][gradient]") {
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto&, const auto&) {
            attention_case<double> c(s);
            const auto d_out = noise(s.count(s.out()), 9);
            const auto g = backward(c, mask, d_out);
            INFO(name << ", " << s.queries << " queries");
            CHECK(difference_error(c, mask, d_out, c.q, g.dq) < 1e-7);
            CHECK(difference_error(c, mask, d_out, c.k, g.dk) < 1e-7);
            CHECK(difference_error(c, mask, d_out, c.v, g.dv) < 1e-7);
        });
}

TEST_CASE("tiled gradient: tile sizes change rounding only, parts nothing", "[attention][gradient]") {
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto&, const auto&) {
            const attention_case<double> c(s);
            const auto d_out = noise(s.count(s.out()), 9);
            const auto whole = backward(c, mask, d_out);
            INFO(name << ", " << s.queries << " queries");
            for (rw::index query_tile : {7, 1000})
                for (rw::index key_tile : {5, 1000}) {
                    const auto g = backward(c, mask, d_out, {.query_tile = query_tile, .key_tile = key_tile});
                    CHECK(worst(g.dq, whole.dq) < 1e-12);
                    CHECK(worst(g.dk, whole.dk) < 1e-12);
                    CHECK(worst(g.dv, whole.dv) < 1e-12);
                }
            const auto parts = backward(c, mask, d_out, {.part = {3, 0}});
            CHECK(parts.dq == whole.dq);
            CHECK(parts.dk == whole.dk);
            CHECK(parts.dv == whole.dv);
        });
}

TEST_CASE("tiled gradient: f32 and bf16 storage follow f64", "[attention][gradient]") {
    const attention_sizes s{.batches = 2,
                            .queries = 110,
                            .keys = 110,
                            .heads = 4,
                            .kv_heads = 2,
                            .channels = 40,
                            .value_channels = 24};
    const auto check = [&](auto tag, double bound) {
        using T = decltype(tag);
        const attention_case<T> c(s);
        attention_case<double> exact(s);
        exact.q = support::widened(c.q), exact.k = support::widened(c.k), exact.v = support::widened(c.v);
        const auto d_out = as<T>(noise(s.count(s.out()), 9));
        const auto g = backward(c, attention::causal_mask{}, d_out);
        const auto want = backward(exact, attention::causal_mask{}, support::widened(d_out));
        CHECK(worst(g.dq, want.dq) < bound);
        CHECK(worst(g.dk, want.dk) < bound);
        CHECK(worst(g.dv, want.dv) < bound);
    };
    check(float{}, 1e-5);
    check(rw::bf16{}, 0.05);  // out and the results are rounded to 2^-9 of numbers up to 8
}

TEST_CASE("tiled gradient: what is not finite stays with the pairs that see it", "[attention][gradient]") {
    const double bad = std::numeric_limits<double>::quiet_NaN();
    for (const auto& s : all_sizes)
        for_each_mask(s, [&](const char* name, const auto& mask, const auto& seen, const auto&) {
            INFO(name << ", " << s.queries << " queries");
            const auto clean_d = noise(s.count(s.out()), 9);
            const attention_case<double> clean(s);
            const auto want = backward(clean, mask, clean_d);
            // A key and a value: queries that do not see them keep their gradients, and so do keys that no
            // query sees together with them.
            for (const rw::index key : {rw::index{0}, s.keys - 1}) {
                auto c = clean;
                for (rw::index b = 0; b < s.batches; ++b)
                    for (rw::index h = 0; h < s.kv_heads; ++h) {
                        const auto row = (b * s.keys + key) * s.kv_heads + h;
                        c.k[std::size_t(row * s.channels)] = bad;
                        c.v[std::size_t(row * s.value_channels)] = bad;
                    }
                const auto got = backward(c, mask, clean_d);
                bool kept = true;
                for (rw::index b = 0, row = 0; b < s.batches; ++b)
                    for (rw::index n = 0; n < s.queries; ++n)
                        for (rw::index h = 0; h < s.heads; ++h, ++row)
                            for (rw::index i = 0; i < s.channels && !seen(b, h, n, key); ++i)
                                kept = kept && got.dq[std::size_t(row * s.channels + i)] ==
                                                   want.dq[std::size_t(row * s.channels + i)];
                CHECK(kept);
            }
            // A query and its gradient: keys that it does not see keep theirs.
            const rw::index query = s.queries / 2;
            auto c = clean;
            auto d_out = clean_d;
            for (rw::index b = 0; b < s.batches; ++b)
                for (rw::index h = 0; h < s.heads; ++h) {
                    const auto row = (b * s.queries + query) * s.heads + h;
                    c.q[std::size_t(row * s.channels)] = bad;
                    d_out[std::size_t(row * s.value_channels)] = bad;
                }
            const auto got = backward(c, mask, d_out);
            bool kept = true;
            const rw::index group = s.heads / s.kv_heads;
            for (rw::index b = 0, row = 0; b < s.batches; ++b)
                for (rw::index j = 0; j < s.keys; ++j)
                    for (rw::index h = 0; h < s.kv_heads; ++h, ++row) {
                        bool reached = false;
                        for (rw::index g = 0; g < group; ++g)
                            reached = reached || seen(b, h * group + g, query, j);
                        for (rw::index i = 0; i < s.channels && !reached; ++i)
                            kept = kept && got.dk[std::size_t(row * s.channels + i)] ==
                                               want.dk[std::size_t(row * s.channels + i)];
                        for (rw::index i = 0; i < s.value_channels && !reached; ++i)
                            kept = kept && got.dv[std::size_t(row * s.value_channels + i)] ==
                                               want.dv[std::size_t(row * s.value_channels + i)];
                    }
            CHECK(kept);
        });
}

TEST_CASE("tiled gradient: what does not fit is refused", "[attention][gradient]") {
    const attention_case<float> c({.queries = 4, .keys = 6});
    std::vector<float> x(200), log_weight(8);
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_gradient_workspace(c.q_view(), c.v_view())));
    const auto call = [&](rw::heads_shape dq, std::size_t weights, std::size_t bytes) {
        const rw::heads_view<float> out(x.data(), c.sizes.out()), dk(x.data(), c.sizes.k());
        const attention::gradient_tensors t{c.q_view(),
                                            c.k_view(),
                                            c.v_view(),
                                            out,
                                            out,
                                            std::span<const float>(log_weight).first(weights),
                                            rw::heads_view<float>(x.data(), dq),
                                            dk,
                                            rw::heads_view<float>(x.data(), c.sizes.v())};
        attention::attend_gradient(attention::full_mask{}, t, std::span<std::byte>(workspace).first(bytes));
    };
    CHECK_REFUSES("attend_gradient: dq must have q's extents: wanted [1, 4, 2, 8], got [1, 3, 2, 8]",
                  call({1, 3, 2, 8}, 8, workspace.size()));
    CHECK_REFUSES("attend_gradient: log_weight must hold batches * queries * heads numbers: wanted 8, got 7",
                  call(c.sizes.q(), 7, workspace.size()));
    CHECK_REFUSES("attend_gradient: workspace must hold attend_gradient_workspace bytes, got 64",
                  call(c.sizes.q(), 8, 64));
}
