// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/turn_head.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
namespace turn = ropewalk::ROPEWALK_ISA::detail;  // not the one of the views
using support::heads_buffer;

namespace {

/// cos and sin of some angles.
template <class C>
struct row_of_angles {
    explicit row_of_angles(rw::index pairs) {
        for (rw::index i = 0; i < pairs; ++i) {
            cos.push_back(static_cast<C>(std::cos(0.3 * static_cast<double>(i) + 1)));
            sin.push_back(static_cast<C>(std::sin(0.3 * static_cast<double>(i) + 1)));
        }
    }
    std::vector<C> cos, sin;
};

/// A source and a target that only count how often a channel is touched.
struct touches {
    mutable std::vector<int> times;
    mutable int outside = 0;
    explicit touches(rw::index channels) : times(static_cast<std::size_t>(channels)) {}
    void touch(rw::index c, rw::index count) const {
        for (rw::index i = c; i < c + count; ++i)
            if (i >= 0 && i < static_cast<rw::index>(times.size())) {
                ++times[static_cast<std::size_t>(i)];
            } else {
                ++outside;
            }
    }
};
struct counting_source : touches {
    using touches::touches;
    auto full(rw::index c) const {
        touch(c, rw::simd::lanes<float>);
        return rw::simd::broadcast(1.0f);
    }
    auto some(rw::index c, rw::index count) const {
        touch(c, count);
        return rw::simd::broadcast(1.0f);
    }
};
struct counting_target : touches {
    using touches::touches;
    void full(rw::index c, rw::simd::pack<float>) const { touch(c, rw::simd::lanes<float>); }
    void some(rw::index c, rw::simd::pack<float>, rw::index count) const { touch(c, count); }
};

template <class Layout>
void check_touches(Layout layout, rw::index pairs, rw::index first_pair,
                   const std::vector<rw::index>& channels_of_skipped) {
    const row_of_angles<float> row(pairs);
    for (const auto& [before, after] :
         {std::pair(0, 0), std::pair(3, 0), std::pair(0, 5), std::pair(37, 1)}) {
        const rw::index channels = before + 2 * pairs + after;
        const counting_source from(channels);
        counting_target to(channels);
        turn::turn_slice(layout,
                         turn::slice_of_head<float>{row.cos.data(), row.sin.data(), pairs, before, channels},
                         from, to, first_pair);
        std::vector<int> once(static_cast<std::size_t>(channels), 1);
        for (rw::index c : channels_of_skipped) once[static_cast<std::size_t>(before + c)] = 0;
        INFO("pairs " << pairs << " from " << first_pair << " before " << before << " after " << after);
        CHECK(from.times == once);
        CHECK(to.times == once);
        CHECK(from.outside + to.outside == 0);
    }
}

template <class Layout, bool Weighted, class S>
void check_blocks() {
    using C = rw::compute_t<S>;
    constexpr rw::index n = rw::simd::lanes<C>;
    constexpr rw::index heads = 3;
    for (rw::index pairs : {rw::index(1), n, 2 * n, 4 * n - 1, 4 * n, 8 * n + 3, 16 * n + 1})
        for (rw::index base : {0, 5}) {
            const row_of_angles<C> row(pairs);
            const rw::index channels = base + 2 * pairs + 2;
            std::vector<C> weight, factors{C(0.5), C(3), C(-1.25)};
            for (rw::index c = 0; c < channels; ++c) weight.push_back(C(1) + C(c) / C(64));
            heads_buffer<S> x({1, 1, heads + 1, channels}, 1, 1), single = x.fill(9);
            const auto before = x.dense();
            const auto view = x.view(), one = single.view();
            const rw::index done = turn::turn_normed_blocks<Layout, Weighted>(
                row.cos.data(), row.sin.data(), pairs, base,
                turn::normed_heads<S>{view.at(0, 0, 0), view.strides.head, heads, weight.data(),
                                      factors.data()});
            INFO("pairs " << pairs << " base " << base << " done " << done);
            CHECK(done % n == 0);
            CHECK(done <= pairs);
            CHECK((pairs < 16 * n || done > 0));
            // The rest of the pairs, the channels beside them and the next head are as they were.
            auto want = before;
            for (rw::index h = 0; h < heads; ++h) {
                turn::plain_target<S> to{one.at(0, 0, h)};
                turn::turn_head(Layout{}, row.cos.data(), row.sin.data(), pairs, base,
                                turn::normed_source<S, Weighted>{
                                    one.at(0, 0, h), weight.data(),
                                    rw::simd::broadcast(factors[static_cast<std::size_t>(h)])},
                                to);
                for (rw::index i = 0; i < done; ++i)
                    for (rw::index c : {Layout::first(i, pairs), Layout::second(i, pairs)})
                        want[static_cast<std::size_t>(h * channels + base + c)] = one.at(0, 0, h)[base + c];
            }
            CHECK(support::same_bits(x.dense(), want));
            CHECK(x.canaries_alive());
        }
}

}  // namespace

TEST_CASE("turn_head: a slice reads and writes every channel of its head once", "[kernels][turn_head]") {
    constexpr rw::index n = rw::simd::lanes<float>;
    for (rw::index pairs : {rw::index(1), n / 2, n / 2 + 1, n - 1, n, n + 1, 2 * n, 3 * n + 2}) {
        check_touches(rw::half_split{}, pairs, 0, {});
        check_touches(rw::interleaved{}, pairs, 0, {});
        for (rw::index group : {rw::index(2), 2 * pairs}) check_touches(turn::grouped{group}, pairs, 0, {});
    }
}

TEST_CASE("turn_head: pairs before the first one are not touched", "[kernels][turn_head]") {
    constexpr rw::index n = rw::simd::lanes<float>;
    for (rw::index pairs : {2 * n, 3 * n + 2})
        for (rw::index first : {n, 2 * n}) {
            std::vector<rw::index> half, woven;
            for (rw::index i = 0; i < first; ++i) {
                half.insert(half.end(), {i, pairs + i});
                woven.insert(woven.end(), {2 * i, 2 * i + 1});
            }
            check_touches(rw::half_split{}, pairs, first, half);
            check_touches(rw::interleaved{}, pairs, first, woven);
        }
}

TEMPLATE_TEST_CASE("turn_head: heads in blocks have the bits of heads one by one, as far as blocks go",
                   "[kernels][turn_head]", double, float, rw::f16, rw::bf16) {
    check_blocks<rw::half_split, true, TestType>();
    check_blocks<rw::half_split, false, TestType>();
    check_blocks<rw::interleaved, true, TestType>();
    check_blocks<rw::interleaved, false, TestType>();
}

TEST_CASE("turn_head: what is measured is what was stored, no lane past it", "[kernels][turn_head]") {
    constexpr rw::index n = rw::simd::lanes<float>;
    std::vector<float> rising(static_cast<std::size_t>(n));
    for (rw::index i = 0; i < n; ++i)
        rising[static_cast<std::size_t>(i)] = static_cast<float>(i % 2 != 0 ? -i - 1 : i + 1);
    const auto x = rw::simd::load(static_cast<const float*>(rising.data()));
    const auto measured = [](const turn::measuring_target& t) {
        return std::bit_cast<float>(rw::simd::largest_magnitude(t.largest));
    };
    for (rw::index count = 1; count <= n; ++count) {
        std::vector<float> out(static_cast<std::size_t>(2 * n), 77.0f);
        turn::measuring_target to{out.data()};
        CHECK(measured(to) == 0);
        to.some(1, x, count);
        CHECK(measured(to) == static_cast<float>(count));
        CHECK(out[0] == 77);
        for (rw::index i = 0; i < count; ++i)
            CHECK(out[static_cast<std::size_t>(i + 1)] == rising[static_cast<std::size_t>(i)]);
        CHECK(out[static_cast<std::size_t>(count + 1)] == 77);
        to.full(0, x * rw::simd::broadcast(2.0f));
        CHECK(measured(to) == static_cast<float>(2 * n));
        to.some(0, x, count);  // a smaller one later changes nothing
        CHECK(measured(to) == static_cast<float>(2 * n));
    }
}

TEMPLATE_TEST_CASE("turn_head: a sum of squares takes each number once and none past the last",
                   "[kernels][turn_head]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    constexpr rw::index n = rw::simd::lanes<C>;
    const auto nan = TestType(std::numeric_limits<C>::quiet_NaN());
    for (rw::index count = 0; count <= 9 * n + 1; ++count) {
        std::vector<TestType> x(static_cast<std::size_t>(count + 2), nan);
        long long want = 0;  // whole numbers: exact in any order
        for (rw::index i = 0; i < count; ++i) {
            const auto v = static_cast<int>(i % 7) - 4;
            x[static_cast<std::size_t>(i + 1)] = TestType(static_cast<C>(v));
            want += v * v;
        }
        INFO(count);
        const TestType* const first = x.data() + 1;
        CHECK(turn::sum_of_squares(first, count) == static_cast<C>(want));
    }
}

TEST_CASE("turn_head: a sum of squares has the same bits wherever the numbers stand",
          "[kernels][turn_head]") {
    for (rw::index count : {7, 100, 256}) {
        std::vector<float> sums;
        for (rw::index shift : {0, 1, 3, 5}) {
            heads_buffer<float> x({1, 1, 1, count}, 0, shift);
            const float* const first = x.fill(4).view().at(0, 0, 0);
            sums.push_back(turn::sum_of_squares(first, count));
        }
        CHECK(sums == std::vector<float>(4, sums[0]));
    }
}
