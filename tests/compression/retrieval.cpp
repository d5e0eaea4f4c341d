// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/retrieval.hpp>

#include <numeric>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
std::vector<T> noise(rw::index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<T> x(static_cast<std::size_t>(count));
    for (T& v : x) v = T(normal(engine));
    return x;
}

rw::rotary_scheme plain_scheme(rw::index d, rw::index first = 0, rw::index rotary = 0,
                               rw::pair_layout layout = rw::half_split{}) {
    if (rotary == 0) rotary = d;
    return rw::make_fixed_scheme({.head_dim = d, .first_channel = first, .layout = layout},
                                 rw::frequencies::geometric({.rotary_dim = rotary}));
}

/// One layer: keys raw and rotated, values, a query, a codebook of arbitrary codewords.
struct layer {
    rw::index tokens, kv_heads, heads, d;
    rw::rotary_scheme rope;
    std::vector<double> k, rotated, v, q;
    std::vector<rw::vector_quantizer<double>> quantizers;
    Eigen::MatrixXd codewords;

    layer(rw::index tokens_, rw::index kv, rw::index group, rw::index d_, rw::index count,
          rw::rotary_scheme scheme, unsigned seed)
        : tokens(tokens_),
          kv_heads(kv),
          heads(kv * group),
          d(d_),
          rope(std::move(scheme)),
          k(noise<double>(tokens * kv * d, seed)),
          rotated(k),
          v(noise<double>(tokens * kv * d, seed + 1)),
          q(noise<double>(heads * d, seed + 2)) {
        rw::rotate(rope, keys(rotated),
                   rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(tokens)));
        const auto numbers = noise<double>(count * d, seed + 3);
        codewords = Eigen::Map<const Eigen::MatrixXd>(numbers.data(), count, d);
        for (rw::index h = 0; h < kv; ++h)
            quantizers.emplace_back(codewords, Eigen::MatrixXd::Identity(d, d));
    }
    rw::heads_view<double> keys(std::vector<double>& x) const { return {x.data(), tokens, kv_heads, d}; }
    rw::heads_view<double> query() { return {q.data(), 1, heads, d}; }
};

struct outcome {
    std::vector<double> o, approximate;
    std::vector<std::uint8_t> top, attended;
    rw::index rows = 0;
};

outcome run(layer& l, rw::retrieval_options options) {
    options.heads = l.heads;
    rw::retrieval_cache<double> cache(l.quantizers, l.rope, options);
    const rw::index split = l.tokens / 3;  // appended in two pieces
    cache.append(l.keys(l.k).token_slice(0, split));
    cache.append(l.keys(l.k).token_slice(split, l.tokens - split));
    outcome r{std::vector<double>(l.heads * l.d), std::vector<double>(l.heads * l.tokens),
              std::vector<std::uint8_t>(l.heads * l.tokens),
              std::vector<std::uint8_t>(l.kv_heads * l.tokens)};
    auto& stored = options.keys == rw::cached_keys::rotated ? l.rotated : l.k;
    cache.attend(l.query(), l.keys(stored), l.keys(l.v), rw::heads_view(r.o.data(), 1, l.heads, l.d),
                 {.approximate_scores = r.approximate, .top = r.top, .attended = r.attended});
    r.rows = cache.rows_read();
    return r;
}

/// The step as the paper words it: token by token, a stable sort, a full softmax.
outcome by_definition(layer& l, const rw::retrieval_options& options) {
    const auto omega = l.rope.spectrum_for(1);
    auto near = l.q, far = l.q;
    const auto at = [&](std::vector<double>& q, double position) {
        rw::rotate(l.rope, rw::heads_view(q.data(), 1, l.heads, l.d),
                   rw::make_rotation_table<double>(omega, rw::position_ids::text(1, position)));
    };
    at(near, double(l.tokens - 1));
    at(far, options.relative_position);
    outcome r{std::vector<double>(l.heads * l.d), std::vector<double>(l.heads * l.tokens),
              std::vector<std::uint8_t>(l.heads * l.tokens),
              std::vector<std::uint8_t>(l.kv_heads * l.tokens)};
    const rw::index group = l.heads / l.kv_heads;
    const double scale = 1 / std::sqrt(double(l.d));
    const auto wanted = std::min(
        l.tokens, options.top_count.value_or(rw::index(std::floor(options.top_fraction * l.tokens))));
    const auto dot = [&](const double* a, const double* b) { return std::inner_product(a, a + l.d, b, 0.0); };
    for (rw::index h = 0; h < l.heads; ++h) {
        const rw::index kv = h / group;
        std::vector<double> ranked(l.tokens);
        for (rw::index n = 0; n < l.tokens; ++n) {
            const Eigen::Map<const Eigen::RowVectorXd> key(l.k.data() + (n * l.kv_heads + kv) * l.d, l.d);
            rw::index best = 0;
            (l.codewords.rowwise() - key).rowwise().squaredNorm().minCoeff(&best);
            const Eigen::RowVectorXd word = l.codewords.row(best);
            r.approximate[h * l.tokens + n] = ranked[n] = scale * dot(far.data() + h * l.d, word.data());
            if (l.tokens - 1 - n < options.window || n < options.sinks) {
                ranked[n] = -std::numeric_limits<double>::infinity();
                r.attended[kv * l.tokens + n] = 1;
            }
        }
        std::vector<rw::index> order(l.tokens);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return ranked[a] > ranked[b]; });
        for (rw::index j = 0; j < wanted; ++j) {
            r.top[h * l.tokens + order[j]] = 1;
            r.attended[kv * l.tokens + order[j]] = 1;
        }
    }
    for (rw::index h = 0; h < l.heads; ++h) {
        const rw::index kv = h / group;
        double sum = 0;
        std::vector<double> mean(l.d);
        for (rw::index n = 0; n < l.tokens; ++n) {
            if (!r.attended[kv * l.tokens + n]) continue;
            const double w =
                std::exp(scale * dot(near.data() + h * l.d, l.rotated.data() + (n * l.kv_heads + kv) * l.d));
            sum += w;
            for (rw::index c = 0; c < l.d; ++c) mean[c] += w * l.v[(n * l.kv_heads + kv) * l.d + c];
        }
        for (rw::index c = 0; c < l.d; ++c) r.o[h * l.d + c] = sum > 0 ? mean[c] / sum : 0;
    }
    r.rows = std::accumulate(r.attended.begin(), r.attended.end(), rw::index(0));
    return r;
}

void compare(layer& l, const rw::retrieval_options& options) {
    CAPTURE(l.tokens, l.kv_heads, l.heads, options.window, options.sinks, options.top_fraction);
    const outcome want = by_definition(l, options);
    for (auto keys : {rw::cached_keys::rotated, rw::cached_keys::unrotated}) {
        auto o = options;
        o.keys = keys;
        const outcome got = run(l, o);
        CHECK(got.top == want.top);
        CHECK(got.attended == want.attended);
        CHECK(got.rows == want.rows);
        double worst = 0;
        for (std::size_t i = 0; i < want.o.size(); ++i)
            worst = std::max(worst, std::abs(got.o[i] - want.o[i]));
        for (std::size_t i = 0; i < want.approximate.size(); ++i)
            worst = std::max(worst, std::abs(got.approximate[i] - want.approximate[i]));
        CHECK(worst < 1e-12);
    }
}

}  // namespace

TEST_CASE("retrieval: a decode step is what its definition says", "[compression][retrieval]") {
    unsigned seed = 10;
    for (rw::index tokens : {1, 5, 40, 130})
        for (rw::index kv : {1, 2})
            for (rw::index group : {1, 4})
                for (rw::index count : {1, 6, 50}) {
                    layer l(tokens, kv, group, 8, count, plain_scheme(8), seed += 5);
                    compare(l, {.window = 7, .relative_position = 50, .sinks = 3, .top_fraction = 0.1});
                    compare(l, {.window = 0, .relative_position = 2.5, .sinks = 0, .top_count = 2});
                    compare(l, {.window = 1, .sinks = 2, .top_fraction = 0.5});
                    compare(l, {.window = 3, .sinks = 1000, .top_fraction = 0});
                    compare(l, {.window = 1000, .sinks = 1, .top_fraction = 1});
                    compare(l, {.window = 4, .sinks = 4, .top_count = 1000000});
                }
}

TEST_CASE("retrieval: partial and interleaved rotation", "[compression][retrieval]") {
    layer interleaved(60, 1, 2, 12, 9, plain_scheme(12, 0, 0, rw::interleaved{}), 3);
    compare(interleaved, {.window = 5, .relative_position = 100, .sinks = 2, .top_fraction = 0.1});
    layer partial(60, 2, 2, 12, 9, plain_scheme(12, 4, 6), 4);
    compare(partial, {.window = 5, .relative_position = 100, .sinks = 2, .top_fraction = 0.1});
    auto still = plain_scheme(12);
    still.rotates = false;
    layer nope(60, 2, 2, 12, 9, still, 5);
    compare(nope, {.window = 5, .relative_position = 100, .sinks = 2, .top_fraction = 0.1});
}

TEST_CASE("retrieval: far scores do not depend on where the prefix stands", "[compression][retrieval]") {
    layer l(50, 1, 2, 8, 12, plain_scheme(8), 6);
    const auto before = run(l, {.window = 3, .relative_position = 64, .sinks = 0, .top_count = 5});
    layer longer(70, 1, 2, 8, 12, plain_scheme(8), 6);
    longer.q = l.q;
    std::copy(l.k.begin(), l.k.end(), longer.k.begin() + 20 * 8);
    const auto after = run(longer, {.window = 3, .relative_position = 64, .sinks = 0, .top_count = 5});
    for (rw::index n = 0; n < 50; ++n) CHECK(after.approximate[20 + n] == before.approximate[n]);
}

TEST_CASE("retrieval: equal scores everywhere take the lowest tokens", "[compression][retrieval]") {
    layer l(40, 1, 1, 4, 5, plain_scheme(4), 7);
    std::fill(l.q.begin(), l.q.end(), 0.0);  // every codeword scores 0, with either sign
    l.q[0] = -0.0;
    const auto r = run(l, {.window = 2, .sinks = 3, .top_count = 4});
    for (rw::index n = 0; n < 40; ++n) CHECK(int(r.top[n]) == (n >= 3 && n < 7));
}

TEST_CASE("retrieval: 16-bit caches, and nothing appended yet", "[compression][retrieval]") {
    const rw::index tokens = 90, d = 16;
    const auto k = noise<rw::bf16>(tokens * d, 1), v = noise<rw::bf16>(tokens * d, 2);
    auto wide = [](const std::vector<rw::bf16>& x) {
        std::vector<float> w(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) w[i] = float(x[i]);
        return w;
    };
    const auto wk = wide(k), wv = wide(v);
    const auto q = noise<float>(2 * d, 3);
    const Eigen::MatrixXd words = Eigen::MatrixXd::Random(20, d);
    const rw::retrieval_options options{
        .heads = 2, .window = 4, .sinks = 1, .top_count = 6, .keys = rw::cached_keys::unrotated};
    rw::retrieval_cache<> a({{words, Eigen::MatrixXd::Identity(d, d)}}, plain_scheme(d), options), b = a;
    std::vector<float> oa(2 * d, 1), ob(2 * d, 1);
    const rw::heads_view qv(q.data(), 1, 2, d);
    const rw::heads_view av(oa.data(), 1, 2, d), bv(ob.data(), 1, 2, d);
    a.attend(qv, rw::heads_view(k.data(), tokens, 1, d), rw::heads_view(v.data(), tokens, 1, d), av);
    CHECK(oa == std::vector<float>(2 * d, 0.0f));
    a.append(rw::heads_view(k.data(), tokens, 1, d));
    b.append(rw::heads_view(wk.data(), tokens, 1, d));
    a.attend(qv, rw::heads_view(k.data(), tokens, 1, d), rw::heads_view(v.data(), tokens, 1, d), av);
    b.attend(qv, rw::heads_view(wk.data(), tokens, 1, d), rw::heads_view(wv.data(), tokens, 1, d), bv);
    CHECK(oa == ob);
    CHECK(a.rows_read() <= 4 + 1 + 12);
    CHECK(a.rows_read() >= 4 + 1 + 6);
    // Rows in their storage format, 20 codewords of f32, two bytes a token.
    CHECK(a.bytes_read() == a.rows_read() * 2 * d * 2 + 20 * d * 4 + tokens * 2);
    CHECK(b.bytes_read() == b.rows_read() * 2 * d * 4 + 20 * d * 4 + tokens * 2);
}

TEST_CASE("retrieval: sequences of several lengths in one object, shared by any number of parts",
          "[compression][retrieval]") {
    const rw::index kv = 2, group = 3, heads = kv * group, d = 8, most = 90;
    const std::vector<rw::index> lengths{90, 37, 1};
    const rw::retrieval_options plain{
        .heads = heads, .window = 5, .relative_position = 40, .sinks = 2, .top_fraction = 0.1};
    std::vector<layer> alone;
    for (std::size_t b = 0; b < 3; ++b)
        alone.emplace_back(lengths[b], kv, group, d, 20, plain_scheme(d), unsigned(10 * b + 1));
    for (auto& l : alone) l.quantizers = alone[0].quantizers, l.codewords = alone[0].codewords;
    const auto joined = [&](auto of, rw::index tokens, rw::index n) {
        std::vector<double> x(3 * tokens * n * d, -3.0);
        for (rw::index b = 0; b < 3; ++b) {
            const auto& from = of(alone[std::size_t(b)]);
            std::copy(from.begin(), from.end(), x.begin() + b * tokens * n * d);
        }
        return x;
    };
    auto q = joined(
        [](layer & l) -> auto& { return l.q; }, 1, heads);
    auto k = joined(
        [](layer & l) -> auto& { return l.rotated; }, most, kv);
    auto v = joined(
        [](layer & l) -> auto& { return l.v; }, most, kv);
    for (rw::index parts : {1, 2, 4, 6, 9}) {
        auto options = plain;
        options.batches = 3;
        options.parts = parts;
        rw::retrieval_cache<double> cache(alone[0].quantizers, plain_scheme(d), options);
        for (rw::index b = 0; b < 3; ++b) {
            auto& l = alone[std::size_t(b)];
            cache.append(l.keys(l.k), b);
            CHECK(cache.tokens(b) == lengths[std::size_t(b)]);
        }
        CHECK(cache.longest() == most);
        std::vector<double> out(3 * heads * d, 7), approximate(3 * heads * most, 7);
        std::vector<std::uint8_t> top(3 * heads * most, 7), attended(3 * kv * most, 7);
        for (rw::index part = parts; part-- > 0;)
            CHECK(cache.attend(rw::heads_view<double>(q.data(), {3, 1, heads, d}),
                               rw::heads_view<double>(k.data(), {3, most, kv, d}),
                               rw::heads_view<double>(v.data(), {3, most, kv, d}),
                               rw::heads_view<double>(out.data(), {3, 1, heads, d}),
                               {.approximate_scores = approximate, .top = top, .attended = attended},
                               {parts, part}));
        rw::index rows = 0;
        for (rw::index b = 0; b < 3; ++b) {
            auto& l = alone[std::size_t(b)];
            const outcome want = run(l, plain);
            rows += want.rows;
            CHECK(want.o ==
                  std::vector<double>(out.begin() + b * heads * d, out.begin() + (b + 1) * heads * d));
            const auto lines = [&](const auto& got, const auto& one, rw::index count) {
                for (rw::index h = 0; h < count; ++h)
                    for (rw::index n = 0; n < most; ++n)
                        CHECK(got[std::size_t((b * count + h) * most + n)] ==
                              (n < l.tokens ? one[std::size_t(h * l.tokens + n)] : 0));
            };
            lines(approximate, want.approximate, heads);
            lines(top, want.top, heads);
            lines(attended, want.attended, kv);
        }
        CHECK(cache.rows_read() == rows);
    }
    // The same tokens for every sequence at once.
    auto options = plain;
    options.batches = 3;
    rw::retrieval_cache<double> cache(alone[0].quantizers, plain_scheme(d), options);
    cache.append(rw::heads_view<double>(k.data(), {3, 4, kv, d}));
    CHECK(cache.tokens(2) == 4);
    CHECK_THROWS_WITH(cache.append(rw::heads_view<double>(k.data(), {2, 4, kv, d})),
                      ContainsSubstring("of all sequences, batches, got 2"));
    CHECK_THROWS_WITH(cache.append(rw::heads_view<double>(k.data(), 4, kv, d), 3),
                      ContainsSubstring("sequence must be one of batches, got 3"));
}

TEST_CASE("retrieval: a key that is not finite is refused before anything is appended",
          "[compression][retrieval][errors]") {
    layer l(9, 2, 1, 8, 4, plain_scheme(8), 1);
    rw::retrieval_cache<double> cache(l.quantizers, l.rope, {.heads = l.heads});
    cache.append(l.keys(l.k).token_slice(0, 5));
    for (const double bad : {double(NAN), double(INFINITY)}) {
        l.k[(7 * 2 + 1) * 8 + 3] = bad;
        CHECK_THROWS_WITH(cache.append(l.keys(l.k).token_slice(5, 4)),
                          ContainsSubstring("retrieval_cache::append: keys must be finite, got"));
        CHECK(cache.tokens() == 5);
        CHECK(cache.codewords_of(0).size() == 5);
    }
}

TEST_CASE("retrieval: what is refused, and how it says so", "[compression][retrieval][errors]") {
    using cache = rw::retrieval_cache<>;
    const rw::vector_quantizer<> four(Eigen::MatrixXd::Random(6, 4), Eigen::MatrixXd::Identity(4, 4));
    const rw::vector_quantizer<> more(Eigen::MatrixXd::Random(7, 4), Eigen::MatrixXd::Identity(4, 4));
    const rw::vector_quantizer<> wider(Eigen::MatrixXd::Random(6, 6), Eigen::MatrixXd::Identity(6, 6));
    const auto rope = plain_scheme(4);
    CHECK_THROWS_WITH(cache({}, rope), ContainsSubstring("quantizers must be one a kv head"));
    CHECK_THROWS_WITH(cache({four, wider}, rope), ContainsSubstring("channels: wanted 4, got 6"));
    CHECK_THROWS_WITH(cache({four, more}, rope), ContainsSubstring("codewords: wanted 6, got 7"));
    CHECK_THROWS_WITH(cache({four, four}, rope, {.heads = 3}),
                      ContainsSubstring("multiple of the quantizers, got 3"));
    CHECK_THROWS_WITH(cache({four}, plain_scheme(6)),
                      ContainsSubstring("head_dim") && ContainsSubstring("got 6"));
    CHECK_THROWS_WITH(cache({four}, rope, {.window = -1}), ContainsSubstring("window must be >= 0, got -1"));
    CHECK_THROWS_WITH(cache({four}, rope, {.batches = 0}),
                      ContainsSubstring("batches must be in 1 .. 2^20, got 0"));
    CHECK_THROWS_WITH(cache({four}, rope, {.batches = std::numeric_limits<rw::index>::max()}),
                      ContainsSubstring("batches must be in 1 .. 2^20, got " + std::to_string(PTRDIFF_MAX)));
    CHECK_THROWS_WITH(cache({four}, rope, {.parts = 0}),
                      ContainsSubstring("parts must be in 1 .. 2^16, got 0"));
    CHECK_THROWS_WITH(cache({four}, rope, {.sinks = -2}), ContainsSubstring("sinks must be >= 0, got -2"));
    CHECK_THROWS_WITH(cache({four}, rope, {.top_fraction = 1.5}), ContainsSubstring("[0, 1], got 1.5"));
    CHECK_THROWS_WITH(cache({four}, rope, {.top_count = -1}),
                      ContainsSubstring("top_count") && ContainsSubstring("-1"));
    CHECK_THROWS_WITH(cache({four}, rope, {.relative_position = std::nan("")}),
                      ContainsSubstring("relative_position"));
    cache c({four}, rope);
    std::vector<float> k(12);
    CHECK_THROWS_WITH(c.append(rw::heads_view(k.data(), 2, 1, 6)), ContainsSubstring("channels, got 6"));
    CHECK_THROWS_WITH(c.append(rw::heads_view(k.data(), 1, 3, 4)),
                      ContainsSubstring("a head a quantizer, got 3"));
    CHECK(c.tokens() == 0);
}
