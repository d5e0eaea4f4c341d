// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/absolute_embedding.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using rw::rope_vit::resize_absolute_embedding;

namespace {

/// The kernel of cubic convolution by distance.
long double kernel(long double x) {
    const long double a = -0.75L;
    x = std::abs(x);
    if (x <= 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
    if (x < 2) return a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a;
    return 0;
}

}  // namespace

TEST_CASE("absolute_embedding: equals the sum over every patch, the border repeated", "[schemes][rope_vit]") {
    const rw::index channels = 3, prefix = 1;
    for (const auto& [fh, fw, th, tw] :
         {std::array<rw::index, 4>{4, 5, 7, 3}, {1, 1, 2, 2}, {3, 3, 12, 1}, {6, 2, 5, 9}}) {
        const auto e = support::noise((prefix + fh * fw) * channels, 1);
        const auto got = resize_absolute_embedding(
            e,
            {.from_height = fh, .from_width = fw, .to_height = th, .to_width = tw, .prefix_tokens = prefix});
        REQUIRE(got.size() == std::size_t((prefix + th * tw) * channels));
        for (std::size_t i = 0; i < std::size_t(prefix * channels); ++i) CHECK(got[i] == e[i]);
        for (rw::index y = 0; y < th; ++y)
            for (rw::index x = 0; x < tw; ++x)
                for (rw::index c = 0; c < channels; ++c) {
                    const long double sy = (y + 0.5L) * fh / th - 0.5L, sx = (x + 0.5L) * fw / tw - 0.5L;
                    long double want = 0;
                    for (rw::index i = -3; i < fh + 3; ++i)
                        for (rw::index j = -3; j < fw + 3; ++j)
                            want += kernel(sy - i) * kernel(sx - j) *
                                    e[std::size_t((prefix + std::clamp<rw::index>(i, 0, fh - 1) * fw +
                                                   std::clamp<rw::index>(j, 0, fw - 1)) *
                                                      channels +
                                                  c)];
                    CHECK(got[std::size_t((prefix + y * tw + x) * channels + c)] ==
                          Approx(double(want)).margin(1e-13));
                }
    }
}

TEST_CASE("absolute_embedding: the same grid keeps its bits, a constant stays one", "[schemes][rope_vit]") {
    const auto wide = support::noise(14 * 14 * 8, 2);
    const std::vector<float> e(wide.begin(), wide.end());
    CHECK(resize_absolute_embedding(e, {14, 14, 14, 14}) == e);
    for (const float v : resize_absolute_embedding(std::vector<float>(6, 2.5f), {2, 3, 5, 8}))
        CHECK(v == Approx(2.5));
    CHECK_REFUSES("resize_absolute_embedding: grids must have sides >= 1, got 0",
                  resize_absolute_embedding(e, {14, 14, 0, 14}));
    CHECK_REFUSES(
        "resize_absolute_embedding: embedding must hold the same channels for every token, got 1568",
        resize_absolute_embedding(e, {13, 14, 2, 2}));
}
