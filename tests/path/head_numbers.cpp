// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/head_numbers.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
using rw::path::head_numbers;

TEST_CASE("path head numbers: contiguous numbers and a view of any strides are read alike",
          "[path][head_numbers]") {
    std::vector<float> packed(2 * 3 * 4), turned(packed.size());
    for (rw::index b = 0; b < 2; ++b)
        for (rw::index n = 0; n < 3; ++n)
            for (rw::index h = 0; h < 4; ++h)
                turned[static_cast<std::size_t>((b * 4 + h) * 3 + n)] =
                    packed[static_cast<std::size_t>((b * 3 + n) * 4 + h)] =
                        static_cast<float>(100 * b + 10 * n + h);
    const head_numbers<float> one(packed),
        other(rw::heads_view<float>::heads_first(turned.data(),
                                                 {.batches = 2, .tokens = 3, .heads = 4, .channels = 1}));
    for (const auto& x : {one, other}) {
        CHECK_FALSE(x.empty());
        CHECK(x.size() == 24);
        CHECK(x.fits(2, 3, 4));
        const auto view = x.view(2, 3, 4);
        for (rw::index b = 0; b < 2; ++b)
            for (rw::index n = 0; n < 3; ++n)
                for (rw::index h = 0; h < 4; ++h)
                    CHECK(*view.at(b, n, h) == static_cast<float>(100 * b + 10 * n + h));
    }
    CHECK(one.fits(1, 6, 4));  // contiguous numbers have the extents that they are used with
    CHECK_FALSE(other.fits(1, 6, 4));
    CHECK_FALSE(one.fits(2, 3, 5));
    CHECK_FALSE(head_numbers<float>(rw::heads_view<float>(packed.data(), 3, 4, 2)).fits(1, 3, 4));
}

TEST_CASE("path head numbers: what is not given is empty", "[path][head_numbers]") {
    for (const auto& x : {head_numbers<double>(), head_numbers<double>(std::vector<double>{}),
                          head_numbers<double>(rw::heads_view<const double>())}) {
        CHECK(x.empty());
        CHECK(x.size() == 0);
    }
    CHECK(head_numbers<double>().fits(1, 0, 4));
    CHECK_FALSE(head_numbers<double>().fits(1, 1, 4));
}
