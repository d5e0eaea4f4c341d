// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// How everything here is timed: the contenders of one case take turns inside one benchmark, on the thread's
// CPU clock, in samples of at least 0.3 ms, and ratios are medians over the turns. An absolute time on a
// shared machine says little; a ratio of neighbours in time says a lot.
//
//     void my_case(benchmark::State& state) {
//         ... make buffers ...
//         bench::compare(state, {.bytes = moved, .roof = [&] { roof pass },
//                                .contenders = {{"kernel", [&] { ours }}, {"plain", [&] { theirs }}}});
//     }
//     BENCHMARK(my_case)->UseManualTime()->Iterations(bench::turns);
//
// Counters: x_roof = kernel / roof, kernel_ns, roof_ns, bytes_per_second, and for every further contender
// <name>_over_kernel = its time / the kernel's (above 1: the kernel is faster).

#include <ctime>

#include <algorithm>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>

#include "support/roof.hpp"

namespace bench {

inline constexpr int turns = 25;
inline constexpr double least_sample_ns = 3e5;

inline double thread_ns() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec);
}

inline double quantile(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}
inline double median(const std::vector<double>& values) { return quantile(values, 0.5); }

struct contender {
    std::string name;
    std::function<void()> run;
};

struct comparison {
    double bytes = 0;            ///< read plus written by one run of the kernel
    std::function<void()> roof = {};  ///< may be empty: then ratios are between the contenders only
    std::vector<contender> contenders = {};
};

/// One sample: as many runs as fill 0.3 ms; returns ns a run.
class sampler {
  public:
    explicit sampler(std::function<void()> run) : run_(std::move(run)) {
        run_();  // warm
        for (;;) {
            const double ns = timed();
            if (ns >= least_sample_ns) break;
            repeats_ = std::max(repeats_ * 2, static_cast<long>(1.2 * static_cast<double>(repeats_) *
                                                                least_sample_ns / std::max(ns, 100.0)));
        }
    }
    double sample() { return timed() / static_cast<double>(repeats_); }

  private:
    double timed() {
        const double start = thread_ns();
        for (long i = 0; i < repeats_; ++i) run_();
        benchmark::ClobberMemory();
        return thread_ns() - start;
    }
    std::function<void()> run_;
    long repeats_ = 1;
};

inline void compare(benchmark::State& state, comparison c) {
    if (c.contenders.empty()) {
        state.SkipWithError("nothing to compare");
        return;
    }
    std::vector<sampler> samplers;
    if (c.roof) c.contenders.push_back({"roof", c.roof});
    for (auto& each : c.contenders) samplers.emplace_back(each.run);
    std::vector<std::vector<double>> ns(samplers.size());
    for (auto _ : state) {
        for (std::size_t k = 0; k < samplers.size(); ++k) ns[k].push_back(samplers[k].sample());
        state.SetIterationTime(ns[0].back() * 1e-9);
    }
    const auto ratio = [&](std::size_t a, std::size_t b) {
        std::vector<double> each;
        for (std::size_t t = 0; t < ns[a].size(); ++t) each.push_back(ns[a][t] / ns[b][t]);
        return median(each);
    };
    const double kernel = median(ns[0]);
    state.counters["kernel_ns"] = kernel;
    state.counters["kernel_p10_ns"] = quantile(ns[0], 0.1);
    if (c.bytes > 0) state.counters["bytes_per_second"] = c.bytes / kernel * 1e9;
    for (std::size_t k = 1; k < c.contenders.size(); ++k) {
        const bool roof = c.roof && k + 1 == c.contenders.size();
        if (roof) {
            state.counters["roof_ns"] = median(ns[k]);
            state.counters["x_roof"] = ratio(0, k);
        } else {
            state.counters[c.contenders[k].name + "_over_kernel"] = ratio(k, 0);
        }
    }
}

/// Tensors of engines start on a cache line of an ordinary page, and so do these.
template <class T>
struct tensor_allocator {
    using value_type = T;
    static constexpr std::align_val_t alignment{64};

    tensor_allocator() = default;
    template <class U>
    tensor_allocator(const tensor_allocator<U>&) noexcept {}
    T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), alignment)); }
    void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, alignment); }
    friend bool operator==(tensor_allocator, tensor_allocator) { return true; }
};
template <class T>
using tensor = std::vector<T, tensor_allocator<T>>;

/// Standard normal numbers in the storage format: near-denormals would slow any loop thirtyfold.
template <class T>
tensor<T> normal_numbers(std::size_t count, unsigned seed = 1) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    tensor<T> out(count);
    for (T& x : out) x = T(static_cast<ropewalk::compute_t<T>>(normal(engine)));
    return out;
}

/// Whether a buffer still holds numbers of the size it was filled with (the work was done on real data).
template <class T>
bool still_normal(const tensor<T>& x) {
    double sum = 0;
    for (const T& v : x) {
        const auto f = static_cast<double>(static_cast<ropewalk::compute_t<T>>(v));
        sum += f * f;
    }
    const double mean = sum / static_cast<double>(std::max<std::size_t>(x.size(), 1));
    return mean > 0.2 && mean < 5;
}

/// The roof over a buffer of any element type.
template <class T>
void roof_pass(tensor<T>& x) {
    static volatile double one = 1;
    static volatile unsigned zero = 0;
    if constexpr (std::is_same_v<T, float>) {
        scale_floats(x.data(), x.size(), static_cast<float>(one));
    } else if constexpr (std::is_same_v<T, double>) {
        scale_doubles(x.data(), x.size(), one);
    } else {
        touch_words(x.data(), x.size() * sizeof(T), zero);
    }
}

template <class T>
const char* dtype_name() {
    switch (ropewalk::dtype<T>::format) {
        case ropewalk::storage::f64: return "f64";
        case ropewalk::storage::f32: return "f32";
        case ropewalk::storage::f16: return "f16";
        case ropewalk::storage::bf16: return "bf16";
    }
    return "?";
}

}  // namespace bench
