// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tile_product.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;
using rw::detail::left;
using rw::detail::onto;
using support::as;
using support::noise;
using support::worst;

namespace {

/// tile_product against three loops, whose left factor lies in rows or in columns.
template <class T, left Left, onto Onto>
double product_error(rw::index rows, rw::index packs, rw::index depth) {
    const rw::index width = packs * rw::simd::lanes<T>, gap = 3;
    const rw::index a_stride = (Left == left::rows ? depth : rows) + gap;
    const auto a = as<T>(noise(std::max(rows, depth) * a_stride, 1)),
               b = as<T>(noise(depth * width + width, 2));
    const auto before = noise(rows * (width + gap), 3), factor = noise(width, 4);
    auto c = as<T>(before);
    const auto scale = as<T>(factor);
    rw::detail::tile_product<Left, Onto, T>(rows, packs, depth, {a.data(), a_stride}, {b.data(), width},
                                            {c.data(), width + gap}, scale.data());
    auto want = support::widened(as<T>(before));
    for (rw::index m = 0; m < rows; ++m)
        for (rw::index n = 0; n < width; ++n) {
            double& to = want[std::size_t(m * (width + gap) + n)];
            if (Onto == onto::nothing) to = 0;
            if (Onto == onto::scaled_sum) to *= support::widened(scale[std::size_t(n)]);
            for (rw::index k = 0; k < depth; ++k)
                to += support::widened(
                          a[std::size_t(Left == left::rows ? m * a_stride + k : m + k * a_stride)]) *
                      support::widened(b[std::size_t(k * width + n)]);
        }
    return worst(c, want);
}

}  // namespace

TEST_CASE("tile_product: three loops, for every remainder, and nothing else written",
          "[attention][product]") {
    for (rw::index rows : {1, 2, 3, 5, 7, 8, 9, 16, 23})
        for (rw::index packs : {1, 2, 3, 4, 5, 8})
            for (rw::index depth : {0, 1, 2, 17}) {
                CHECK(product_error<float, left::rows, onto::nothing>(rows, packs, depth) < 1e-5);
                CHECK(product_error<float, left::columns, onto::sum>(rows, packs, depth) < 1e-5);
                CHECK(product_error<double, left::rows, onto::sum>(rows, packs, depth) < 1e-14);
                CHECK(product_error<double, left::columns, onto::scaled_sum>(rows, packs, depth) < 1e-14);
            }
}

TEST_CASE("row_products: dot products of rows of any length", "[attention][product]") {
    const auto check = [](auto zero, double bound) {
        using T = decltype(zero);
        const rw::index lanes = rw::simd::lanes<T>;
        for (rw::index rows : {1, 3, 4, 6, 9})
            for (rw::index columns : {1, 2, 5})
                for (rw::index depth : {1, 7, 16, 37}) {
                    const rw::index width = (depth + lanes - 1) / lanes * lanes;
                    const auto a = as<T>(noise(rows * depth, 1));
                    std::vector<T> b(std::size_t(columns * width)), c(std::size_t(rows * columns));
                    const auto numbers = as<T>(noise(columns * depth, 2));
                    std::vector<double> want;
                    for (rw::index r = 0; r < columns; ++r)
                        std::copy_n(numbers.begin() + r * depth, depth, b.begin() + r * width);
                    for (rw::index j = 0; j < rows; ++j)
                        for (rw::index r = 0; r < columns; ++r) {
                            double sum = 0;
                            for (rw::index k = 0; k < depth; ++k)
                                sum += support::widened(a[std::size_t(j * depth + k)]) *
                                       support::widened(numbers[std::size_t(r * depth + k)]);
                            want.push_back(sum);
                        }
                    rw::detail::row_products<T>(rows, columns, depth, {a.data(), depth}, {b.data(), width},
                                                {c.data(), columns});
                    CHECK(worst(c, want) < bound);
                }
    };
    check(0.f, 1e-5);
    check(0.0, 1e-14);
}
