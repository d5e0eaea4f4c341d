// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What every peer is asked: to rotate one layer's queries and keys, 32 + 8 heads of 128, on one thread. Its
// result is held against rotate's before both are timed in turn.
//
//     class their_work {
//       public:
//         using layout = rw::half_split;
//         using element = float;
//         explicit their_work(peers::layer<element>& x);  // throws what is wrong: the case is then skipped
//         void run();                                     // both rotations, in place or not
//         const element* q();                             // the results [tokens, heads, dim]
//         const element* k();
//     };
//     peers::add<their_work>({.name = "theirs", .version = their_version(), .most_apart = 1e-5});

#include <ctime>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/measure.hpp"

namespace peers {

namespace rw = ropewalk;

inline constexpr rw::index q_heads = 32, k_heads = 8, dim = 128, pairs = dim / 2, context = 8192;
inline constexpr double base = 10000;

/// Queries and keys [tokens, heads, dim] of a peer's own, and where their tokens stand.
template <class T>
struct layer {
    rw::index tokens;
    bench::tensor<T> q, k;
    std::vector<std::int32_t> positions;
    const rw::rotation_table<float>& angles;  ///< row = position, for those who are given cos and sin
};

/// A peer by name; `most_apart` is how far one of its numbers may be from ours.
struct description {
    std::string name, version;
    double most_apart = 0;
};

template <class T>
double most_apart(const bench::tensor<T>& ours, const T* theirs) {
    double most = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
        const double apart =
            std::abs(double(static_cast<float>(ours[i])) - double(static_cast<float>(theirs[i])));
        if (!(apart <= most)) most = apart;  // a NaN stays
    }
    return most;
}

/// CPU time is read on the calling thread: help from others would go unseen.
template <class Run>
bool has_helpers(Run run) {
    const auto process_ns = [] {
        timespec t{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return 1e9 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec);
    };
    const double thread = bench::thread_ns(), process = process_ns();
    while (bench::thread_ns() - thread < 2e6) run();
    return process_ns() - process > 1.2 * (bench::thread_ns() - thread);
}

template <class Peer>
void peer_case(benchmark::State& state, const description& peer, rw::index tokens) try {
    state.SetLabel(peer.name + " " + peer.version);
    using T = typename Peer::element;
    using layout = typename Peer::layout;
    auto q = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * q_heads * dim), 1);
    auto k = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * k_heads * dim), 2);
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = dim, .base = base}), context,
                                    {.max_rows = context});
    layer<T> x{.tokens = tokens, .q = q, .k = k, .positions = {}, .angles = table.table()};
    for (rw::index n = 0; n < tokens; ++n)
        x.positions.push_back(static_cast<std::int32_t>((n * 5077 + 5000) % context));
    const auto rows = table.rows(x.positions);
    const rw::heads_view<T> qv(q.data(), tokens, q_heads, dim), kv(k.data(), tokens, k_heads, dim);

    Peer theirs(x);
    rw::rotate(layout{}, qv, kv, rows);
    theirs.run();
    const double of_q = most_apart(q, theirs.q()), of_k = most_apart(k, theirs.k());
    state.counters[peer.name + "_apart"] = of_q >= of_k ? of_q : of_k;
    if (!(of_q <= peer.most_apart && of_k <= peer.most_apart)) {
        state.SkipWithError((peer.name + " computed something else").c_str());
        return;
    }
    if (has_helpers([&] { theirs.run(); })) {
        state.SkipWithError((peer.name + " took more than one thread").c_str());
        return;
    }
    bench::compare(state, {.bytes = 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(T)),
                           .roof = [&] { bench::roof_pass(q), bench::roof_pass(k); },
                           .contenders = {{"kernel", [&] { rw::rotate(layout{}, qv, kv, rows); }},
                                          {peer.name, [&] { theirs.run(); }}}});
} catch (const std::exception& e) {
    state.SkipWithError((peer.name + ": " + e.what()).c_str());
}

/// Cases of 1, 512 and 4096 tokens.
template <class Peer>
void add(const description& peer) {
    const std::string what =
        std::string(std::is_same_v<typename Peer::layout, rw::half_split> ? "half_split" : "interleaved") +
        "/" + bench::dtype_name<typename Peer::element>();
    for (rw::index tokens : {1, 512, 4096})
        benchmark::RegisterBenchmark(("peer_" + peer.name + "/" + what + "/tokens:" + std::to_string(tokens) +
                                      "/q_heads:32/k_heads:8/dim:128")
                                         .c_str(),
                                     [=](benchmark::State& state) { peer_case<Peer>(state, peer, tokens); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}

}  // namespace peers
