// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/chunk_memory.hpp>

#include <string>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/plain_attention.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using attention::chunk_positions;
using support::noise;
using support::refusal;
using support::worst;

namespace {

constexpr rw::index heads = 3, channels = 8, slots = 4;

template <class T>
struct branches {
    std::vector<T> out, full, local, memory;
};
struct setting {
    rw::index tokens = 11, chunk = 16, window = 4, memory_slots = slots, chunk_index = 2;
    chunk_positions positions = chunk_positions::chunk;
    std::vector<double> logits{0.3, -0.2, 0.7};
};
template <class T>
branches<T> run(const setting& s) {
    const auto as = [](const std::vector<double>& x) { return std::vector<T>(x.begin(), x.end()); };
    const auto count = static_cast<std::size_t>(s.tokens * heads * channels);
    const auto q = as(noise(s.tokens * heads * channels, 1)), k = as(noise(s.tokens * heads * channels, 2)),
               v = as(noise(s.tokens * heads * channels, 3));
    const auto mk = as(noise(slots * heads * channels, 4)), mv = as(noise(slots * heads * channels, 5));
    branches<T> b{std::vector<T>(count), std::vector<T>(count), std::vector<T>(count), std::vector<T>(count)};
    const auto in = [&](const std::vector<T>& x, rw::index rows) {
        return rw::heads_view<const T>(x.data(), rows, heads, channels);
    };
    const auto out = [&](std::vector<T>& x) {
        return rw::heads_view<T>(x.data(), s.tokens, heads, channels);
    };
    attention::attend_chunk<T>({.chunk = s.chunk, .local_window = s.window, .positions = s.positions},
                               rw::frequencies::geometric({.rotary_dim = channels}),
                               {.q = in(q, s.tokens),
                                .k = in(k, s.tokens),
                                .v = in(v, s.tokens),
                                .memory_k = in(mk, s.memory_slots),
                                .memory_v = in(mv, s.memory_slots),
                                .out = out(b.out),
                                .full = out(b.full),
                                .local = out(b.local),
                                .memory = out(b.memory)},
                               s.chunk_index, s.logits);
    return b;
}

}  // namespace

TEST_CASE("chunk memory: the branches are exact attention under their masks", "[attention][chunk]") {
    const setting s;
    const auto got = run<double>(s);
    auto q = noise(s.tokens * heads * channels, 1), k = noise(s.tokens * heads * channels, 2),
         v = noise(s.tokens * heads * channels, 3);
    auto mk = noise(slots * heads * channels, 4), mv = noise(slots * heads * channels, 5);
    const auto view = [](std::vector<double>& x, rw::index rows) {
        return rw::heads_view<double>(x.data(), rows, heads, channels);
    };
    std::vector<double> want(q.size());
    support::plain_attend(view(q, s.tokens), view(mk, slots), view(mv, slots), view(want, s.tokens));
    CHECK(worst(got.memory, want) < 1e-12);
    rw::rotate(rw::half_split{}, view(q, s.tokens), view(k, s.tokens),
               rw::make_rotation_table<double>(rw::frequencies::geometric({.rotary_dim = channels}),
                                               rw::position_ids::text(s.tokens)));
    support::plain_attend(view(q, s.tokens), view(k, s.tokens), view(v, s.tokens), view(want, s.tokens),
                          {.causal = true});
    CHECK(worst(got.full, want) < 1e-12);
    std::vector<std::int32_t> window;
    for (rw::index n = 0; n < s.tokens; ++n) window.push_back(static_cast<std::int32_t>(n / s.window));
    support::plain_attend(view(q, s.tokens), view(k, s.tokens), view(v, s.tokens), view(want, s.tokens),
                          {.causal = true, .query_documents = window});
    CHECK(worst(got.local, want) < 1e-12);
    const auto a = attention::branch_weights(s.logits, slots);
    for (std::size_t i = 0; i < want.size(); ++i)
        want[i] = a[0] * got.full[i] + a[1] * got.local[i] + a[2] * got.memory[i];
    CHECK(worst(got.out, want) < 1e-14);
    const auto narrow = run<float>(s);
    CHECK(worst(narrow.out, got.out) < 1e-5);
    CHECK(worst(narrow.full, got.full) < 1e-5);
}

TEST_CASE("chunk memory: shifting all positions changes nothing, a wide window is the full branch",
          "[attention][chunk][reduces]") {
    setting s;
    const auto here = run<double>(s);
    s.positions = chunk_positions::global;
    CHECK(worst(run<double>(s).out, here.out) < 1e-13);
    s.window = 16;
    const auto wide = run<double>(s);
    CHECK(wide.local == wide.full);
    s.window = 4;
    s.logits = {800, 0, 0};
    const auto only_full = run<double>(s);
    CHECK(worst(only_full.out, only_full.full) < 1e-15);
}

TEST_CASE("chunk memory: without memory rows the branch is zero and the others share its weight",
          "[attention][chunk]") {
    setting s;
    s.memory_slots = 0;
    const auto got = run<double>(s);
    for (double v : got.memory) CHECK(v == 0);
    const auto a = attention::branch_weights(s.logits, 0);
    CHECK(a[2] == 0);
    CHECK(a[0] + a[1] == Approx(1).epsilon(1e-15));
    CHECK(a[0] / a[1] == Approx(std::exp(0.5)).epsilon(1e-14));
    s.tokens = 0;
    CHECK(run<double>(s).out.empty());
}

TEST_CASE("memory bank: a ring of gated rows, oldest replaced", "[attention][memory]") {
    const rw::index dim = 5;
    const auto gate = noise(dim * 2 * dim, 1), bias = noise(dim, 2), candidate = noise(dim * dim, 3),
               start = noise(slots * dim, 4);
    attention::memory_bank<double> bank(slots, dim,
                                        {.gate = gate, .gate_bias = bias, .candidate = candidate});
    for (double v : bank.storage()) CHECK(v == 0);
    bank.assign(start);
    std::vector<std::vector<double>> rows;  // the bank as it is written down, oldest first
    for (rw::index i = 0; i < slots; ++i)
        rows.emplace_back(start.begin() + i * dim, start.begin() + (i + 1) * dim);
    for (unsigned step = 0; step < 11; ++step) {
        const auto s = noise(dim, 10 + step);
        const auto m = rows.back();
        std::vector<double> fresh;
        for (rw::index r = 0; r < dim; ++r) {
            double logit = bias[static_cast<std::size_t>(r)], c = 0;
            for (rw::index i = 0; i < dim; ++i) {
                logit +=
                    gate[static_cast<std::size_t>(r * 2 * dim + i)] * m[static_cast<std::size_t>(i)] +
                    gate[static_cast<std::size_t>(r * 2 * dim + dim + i)] * s[static_cast<std::size_t>(i)];
                c += candidate[static_cast<std::size_t>(r * dim + i)] * s[static_cast<std::size_t>(i)];
            }
            const double z = 1 / (1 + std::exp(-logit));
            fresh.push_back((1 - z) * m[static_cast<std::size_t>(r)] + z * std::tanh(c));
        }
        bank.write(s);
        rows.erase(rows.begin());
        rows.push_back(fresh);
        for (rw::index age = 0; age < slots; ++age)
            for (rw::index c = 0; c < dim; ++c)
                CHECK(bank.row(age)[static_cast<std::size_t>(c)] ==
                      Approx(rows[static_cast<std::size_t>(age)][static_cast<std::size_t>(c)]).margin(1e-12));
    }
}

TEST_CASE("memory bank: a closed gate copies the newest row, no gate is a plain queue",
          "[attention][memory][reduces]") {
    const std::vector<double> zero(2 * 3 * 3, 0.0), closed(3, -1e6), candidate(9, 1.0),
        start{1, 2, 3, 4, 5, 6};
    attention::memory_bank<double> shut(2, 3, {.gate = zero, .gate_bias = closed, .candidate = candidate});
    shut.assign(start);
    CHECK(shut.write(std::vector<double>{7, 8, 9}) == std::vector<double>(3, 0.0));
    CHECK(std::vector<double>(shut.row(1).begin(), shut.row(1).end()) == std::vector<double>{4, 5, 6});
    attention::memory_bank<double> plain(2, 3);
    for (double v : {1.0, 2.0, 3.0}) plain.write(std::vector<double>(3, v));
    CHECK(plain.row(0)[0] == 2);
    CHECK(plain.row(1)[2] == 3);
    attention::memory_bank<float> one(1, 1);  // one slot: a recurrence
    one.write(std::vector<float>{5});
    CHECK(one.row(0)[0] == 5);
}

TEST_CASE("chunk memory: what a branch hides from a query cannot reach it, NaN included",
          "[attention][chunk]") {
    const rw::index tokens = 11, window = 4, d = 8;
    const auto run_with = [&](bool poisoned) {
        const auto q = noise(tokens * d, 1);
        auto k = noise(tokens * d, 2), v = noise(tokens * d, 3);
        if (poisoned) {
            v[5 * 8] = std::nan("");
            k[9 * 8 + 1] = std::nan("");
        }
        branches<double> b{
            std::vector<double>(q.size()), std::vector<double>(q.size()), std::vector<double>(q.size()), {}};
        const auto in = [&](const std::vector<double>& x) {
            return rw::heads_view<const double>(x.data(), tokens, 1, d);
        };
        const auto out = [&](std::vector<double>& x) {
            return rw::heads_view<double>(x.data(), tokens, 1, d);
        };
        attention::attend_chunk<double>({.chunk = 16, .local_window = window},
                                        rw::frequencies::geometric({.rotary_dim = d}),
                                        {.q = in(q),
                                         .k = in(k),
                                         .v = in(v),
                                         .memory_k = {},
                                         .memory_v = {},
                                         .out = out(b.out),
                                         .full = out(b.full),
                                         .local = out(b.local)},
                                        0, std::vector<double>{0.3, -0.2, 0.7});
        return b;
    };
    const auto clean = run_with(false), got = run_with(true);
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index c = 0; c < d; ++c) {
            const auto at = static_cast<std::size_t>(n * d + c);
            const bool full = (n >= 5 && c == 0) || n >= 9, local = (n >= 5 && n < 8 && c == 0) || n >= 9;
            CHECK(std::isnan(got.full[at]) == full);
            CHECK(std::isnan(got.local[at]) == local);
            CHECK(std::isnan(got.out[at]) == full);
            if (!full) CHECK(got.out[at] == Approx(clean.out[at]).margin(1e-14));
            if (!local) CHECK(got.local[at] == Approx(clean.local[at]).margin(1e-14));
        }
}

TEST_CASE(
    "chunk memory: a chunk in pieces over a cache of rotated keys gives the chunk, batches and kv heads",
    "[attention][chunk]") {
    const auto check = [](auto tag, double bound) {
        using T = decltype(tag);
        const rw::index batches = 2, tokens = 45, q_heads = 6, kv_heads = 2, width = 16, cells = 5;
        const auto omega = rw::frequencies::geometric({.rotary_dim = width});
        const auto numbers = [&](rw::index rows, rw::index of_heads, unsigned seed) {
            return support::as<T>(noise(batches * rows * of_heads * width, seed));
        };
        const auto q = numbers(tokens, q_heads, 1), k = numbers(tokens, kv_heads, 2),
                   v = numbers(tokens, kv_heads, 3), mk = numbers(cells, kv_heads, 4),
                   mv = numbers(cells, kv_heads, 5);
        const auto view = [&](const std::vector<T>& x, rw::index rows, rw::index of_heads) {
            return rw::heads_view<const T>(x.data(), {batches, rows, of_heads, width});
        };
        std::vector<T> whole(q.size()), pieces(q.size());
        const rw::heads_view<T> to(pieces.data(), {batches, tokens, q_heads, width});
        const std::vector<double> logits{0.3, -0.2, 0.7};
        attention::chunk_config config{.chunk = 64, .local_window = 12, .positions = chunk_positions::global};
        attention::chunk_tensors<T> t{.q = view(q, tokens, q_heads),
                                      .k = view(k, tokens, kv_heads),
                                      .v = view(v, tokens, kv_heads),
                                      .memory_k = view(mk, cells, kv_heads),
                                      .memory_v = view(mv, cells, kv_heads),
                                      .out = rw::heads_view<T>(whole.data(), to.shape)};
        attention::attend_chunk<T>(config, omega, t, 3, logits);
        // The cache: keys rotated once, at the positions of chunk 3.
        auto cache = k;
        const auto table =
            rw::make_rotation_table<rw::compute_t<T>>(omega, rw::position_ids::text(tokens, 3 * 64));
        for (rw::index b = 0; b < batches; ++b) {
            const auto of_batch =
                rw::heads_view<T>(cache.data(), {batches, tokens, kv_heads, width}).batch_slice(b, 1);
            rw::rotate(rw::half_split{}, of_batch, table);
        }
        config.keys = attention::chunk_keys::rotated;
        for (rw::index first = 0, count = 20; first < tokens; first += count, count = 1) {
            t.q = view(q, tokens, q_heads).token_slice(first, count);
            t.k = view(cache, tokens, kv_heads).token_slice(0, first + count);
            t.v = view(v, tokens, kv_heads).token_slice(0, first + count);
            t.out = to.token_slice(first, count);
            attention::attend_chunk<T>(config, omega, t, 3, logits);
        }
        CHECK(worst(pieces, whole) < bound);
    };
    check(0.0, 1e-13);
    check(0.f, 1e-5);
    check(rw::bf16{}, 0.02);  // the cache rounds keys to 2^-9 once more
}

TEST_CASE("chunk memory: what does not fit is refused with its value", "[attention][chunk][errors]") {
    const auto with = [](auto change) {
        setting s;
        change(s);
        return refusal([&] { run<double>(s); });
    };
    CHECK(with([](setting& s) { s.window = 0; }) == "attend_chunk: local_window must be > 0, got 0");
    CHECK(with([](setting& s) { s.chunk = 0; }) == "attend_chunk: chunk must be > 0, got 0");
    CHECK(with([](setting& s) { s.chunk = 10; }) == "attend_chunk: tokens must be at most a chunk, got 11");
    CHECK(with([](setting& s) { s.chunk_index = -1; }) == "attend_chunk: chunk_index must be >= 0, got -1");
    CHECK(with([](setting& s) { s.logits = {0, 0}; }) == "branch_weights: logits must be 3, got 2");
    CHECK(with([](setting& s) { s.logits[1] = INFINITY; }) ==
          "branch_weights: logits must be finite, got inf");
    CHECK(with([](setting& s) {
              s.positions = chunk_positions::global;
              s.chunk_index = std::numeric_limits<rw::index>::max() / 2;
          }).starts_with("attend_chunk: chunk_index * chunk must fit"));
    CHECK(refusal([] {
              attention::memory_bank<double>(support::huge(32), support::huge(32));
          }).starts_with("memory_bank: slots * dim must fit"));
    CHECK(refusal([] {
              attention::memory_bank<double>(1, support::huge(32));
          }).starts_with("memory_bank: 2 * dim * dim must fit"));
    CHECK(refusal([] { attention::memory_bank<float>(0, 4); }) == "memory_bank: slots must be > 0, got 0");
    const std::vector<float> few(3);
    CHECK(refusal([&] { attention::memory_bank<float>(2, 4, {.gate = few, .candidate = few}); }) ==
          "memory_bank: gate must hold dim * 2 dim numbers, got 3");
    attention::memory_bank<float> bank(2, 4);
    CHECK(refusal([&] { bank.write(few); }) ==
          "memory_bank::write: summary must hold dim numbers: wanted 4, got 3");
}
