// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ctime>

#include <algorithm>
#include <vector>

#include <benchmark/benchmark.h>

// Times a kernel beside a competing pass over the same data, sample by sample in turn, so that both meet
// the same clock and the same neighbours on the machine.
namespace bench {

inline double thread_ns() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec);
}

/// How often f must run for a sample of at least 0.3 ms: shorter ones drown in the clock.
template <class F>
long repeats_for(F& f) {
    for (long n = 1;; n *= 2) {
        const double start = thread_ns();
        for (long i = 0; i < n; ++i) f();
        if (thread_ns() - start >= 3e5) return n;
    }
}
template <class F>
double sample(F& f, long repeats) {
    const double start = thread_ns();
    for (long i = 0; i < repeats; ++i) f();
    benchmark::ClobberMemory();
    return (thread_ns() - start) / static_cast<double>(repeats);
}
inline double median(std::vector<double> x) {
    std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
    return x[x.size() / 2];
}

/// Counters: kernel_ns and other_ns (medians of a call) and `ratio`, kernel over other.
template <class Kernel, class Other>
void run_against(benchmark::State& state, const char* ratio, Kernel kernel, Other other) {
    const long kernel_repeats = repeats_for(kernel), other_repeats = repeats_for(other);
    std::vector<double> kernel_ns, other_ns;
    for (auto _ : state) {
        kernel_ns.push_back(sample(kernel, kernel_repeats));
        other_ns.push_back(sample(other, other_repeats));
        state.SetIterationTime(kernel_ns.back() * 1e-9);
    }
    if (kernel_ns.empty()) return;
    state.counters["kernel_ns"] = median(kernel_ns);
    state.counters["other_ns"] = median(other_ns);
    state.counters[ratio] = median(kernel_ns) / median(other_ns);
}

}  // namespace bench
