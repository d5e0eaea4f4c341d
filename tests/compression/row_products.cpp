// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/row_products.hpp>

#include <cmath>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
std::vector<T> noise(rw::index count, unsigned seed) {
    const Eigen::VectorXd x = support::gaussian(count, 1, seed);
    return {x.data(), x.data() + count};
}
template <class E>
double value(E x) {
    return static_cast<double>(static_cast<rw::compute_t<E>>(x));
}

/// Rows that lie anywhere: in reverse order, one element off any alignment, with a gap after each.
template <class E>
struct scattered_rows {
    std::vector<E> memory;
    std::vector<const rw::stored_t<E>*> rows;

    scattered_rows(rw::index count, rw::index channels, unsigned seed) {
        const rw::index step = channels + 3;
        for (float v : noise<float>(count * step + 1, seed)) memory.push_back(E(v));
        for (rw::index j = count; j-- > 0;)
            rows.push_back(reinterpret_cast<const rw::stored_t<E>*>(memory.data() + 1 + j * step));
    }
    double at(rw::index row, rw::index channel) const {
        return value(reinterpret_cast<const E*>(rows[static_cast<std::size_t>(row)])[channel]);
    }
};

/// Both products against plain sums, for E rows and T numbers; whatever lies outside stays as it was.
template <class E>
void compare() {
    using T = rw::compute_t<E>;
    const rw::index lanes = rw::simd::lanes<T>, gap = 2;
    for (rw::index heads : {0, 1, 3, 4, 5, 8})
        for (rw::index count : {0, 1, 2, 4, 7})
            for (rw::index channels :
                 {rw::index{0}, rw::index{1}, lanes - 1, lanes, lanes + 1, 4 * lanes, 7 * lanes + 3}) {
                CAPTURE(heads, count, channels);
                const scattered_rows<E> k(count, channels, 1);
                const rw::index wide = channels + gap, line = count + gap;
                const auto x = noise<T>(heads * wide, 2), weights = noise<T>(heads * line, 3),
                           before = noise<T>(heads * wide, 4);
                const double bound = 8 * static_cast<double>(std::numeric_limits<T>::epsilon());

                std::vector<T> out(static_cast<std::size_t>(heads * line), T(77));
                rw::detail::fill_row_products(x.data(), wide, heads, k.rows.data(), count, channels,
                                              out.data(), line);
                std::vector<T> sums = before;
                rw::detail::add_weighted_rows(k.rows.data(), count, channels, weights.data(), line, heads,
                                              sums.data(), wide);
                double worst = 0;
                bool untouched = true;
                for (rw::index h = 0; h < heads; ++h) {
                    for (rw::index j = 0; j < line; ++j) {
                        const T got = out[static_cast<std::size_t>(h * line + j)];
                        double want = 0, size = 1;
                        for (rw::index c = 0; c < channels && j < count; ++c) {
                            const double part = value(x[static_cast<std::size_t>(h * wide + c)]) * k.at(j, c);
                            want += part;
                            size += std::abs(part);
                        }
                        if (j < count) worst = std::max(worst, std::abs(value(got) - want) / size);
                        if (j >= count) untouched = untouched && got == T(77);
                    }
                    for (rw::index c = 0; c < wide; ++c) {
                        const auto at = static_cast<std::size_t>(h * wide + c);
                        double want = value(before[at]), size = std::abs(want) + 1;
                        for (rw::index j = 0; j < count && c < channels; ++j) {
                            const double part =
                                value(weights[static_cast<std::size_t>(h * line + j)]) * k.at(j, c);
                            want += part;
                            size += std::abs(part);
                        }
                        if (c < channels) worst = std::max(worst, std::abs(value(sums[at]) - want) / size);
                        if (c >= channels) untouched = untouched && sums[at] == before[at];
                    }
                }
                CHECK(worst <= bound);
                CHECK(untouched);
            }
}

}  // namespace

TEST_CASE("row_products: products and weighted sums are the plain ones", "[compression][row_products]") {
    compare<float>();
    compare<double>();
    compare<rw::bf16>();
    compare<rw::f16>();
}

TEST_CASE("row_products: NaN and infinity stay in their row, or reach their head's sum",
          "[compression][row_products]") {
    const rw::index d = 2 * rw::simd::lanes<float> + 1;
    std::vector<float> k(static_cast<std::size_t>(3 * d), 1.0f), x(static_cast<std::size_t>(2 * d), 1.0f);
    k[static_cast<std::size_t>(2 * d - 1)] = std::nanf("");  // row 1, last channel
    const float* rows[3] = {k.data(), k.data() + d, k.data() + 2 * d};
    float out[6];
    rw::detail::fill_row_products(x.data(), d, 2, rows, 3, d, out, 3);
    for (int h = 0; h < 2; ++h) {
        CHECK(out[3 * h] == static_cast<float>(d));
        CHECK(std::isnan(out[3 * h + 1]));
        CHECK(out[3 * h + 2] == static_cast<float>(d));
    }
    std::vector<float> sums(static_cast<std::size_t>(2 * d));
    const float weights[6] = {1, 0, 1, 1, 1, 1};
    rw::detail::add_weighted_rows(rows, 3, d, weights, 3, 2, sums.data(), d);
    CHECK(sums[0] == 2);
    CHECK(sums[static_cast<std::size_t>(d)] == 3);
    CHECK(std::isnan(sums[static_cast<std::size_t>(2 * d - 1)]));
}
