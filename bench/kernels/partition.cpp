// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One call split over two threads of the caller's own, against the same call on one. Wall clock: what two
// threads save cannot be seen on a thread's CPU clock.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

/// A second thread that waits for a number to change and then does its part.
class helper_thread {
  public:
    template <class F>
    explicit helper_thread(F part)
        : thread_([this, part] {
              for (long seen = 0;;) {
                  while (asked_.load(std::memory_order_acquire) == seen)
                      if (stopped_) return;
                  seen = asked_.load(std::memory_order_acquire);
                  part();
                  done_.store(seen, std::memory_order_release);
              }
          }) {}
    ~helper_thread() {
        stopped_ = true;
        thread_.join();
    }
    void start() { asked_.fetch_add(1, std::memory_order_release); }
    void wait() const {
        while (done_.load(std::memory_order_acquire) != asked_.load(std::memory_order_relaxed)) {
        }
    }

  private:
    std::atomic<long> asked_{0}, done_{0};
    std::atomic<bool> stopped_{false};
    std::thread thread_;
};

double wall_ns() {
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

void two_threads(benchmark::State& state) {
    const auto tokens = state.range(0);
    auto q = bench::normal_numbers<float>(static_cast<std::size_t>(tokens * 32 * 128), 1);
    auto k = bench::normal_numbers<float>(static_cast<std::size_t>(tokens * 8 * 128), 2);
    rw::position_table table(rw::frequencies::geometric({.rotary_dim = 128}), tokens);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
    for (std::size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<std::int32_t>(n);
    const auto rows = table.rows(positions);
    const rw::heads_view qv(q.data(), tokens, 32, 128), kv(k.data(), tokens, 8, 128);
    helper_thread second([&] { rw::rotate(rw::half_split{}, qv, kv, rows, rw::part_of{2, 1}); });
    std::vector<double> ratios;
    for (auto _ : state) {
        const double start = wall_ns();
        rw::rotate(rw::half_split{}, qv, kv, rows);
        const double one = wall_ns();
        second.start();
        rw::rotate(rw::half_split{}, qv, kv, rows, rw::part_of{2, 0});
        second.wait();
        const double two = wall_ns();
        ratios.push_back((one - start) / (two - one));
        state.SetIterationTime((two - one) * 1e-9);
    }
    state.counters["one_over_two_threads"] = bench::median(ratios);
    if (!bench::still_normal(q)) state.SkipWithError("the data did not stay normal numbers");
}
BENCHMARK(two_threads)
    ->Name("partition/half_split/f32/threads:2")
    ->ArgName("tokens")
    ->Arg(512)
    ->Arg(4096)
    ->UseManualTime()
    ->Iterations(400)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
