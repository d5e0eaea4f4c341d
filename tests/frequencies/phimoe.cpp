// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/phimoe.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using frequencies::phimoe_choice;
namespace rw = ropewalk;

namespace {

const frequencies::phimoe_config small{.rotary_dim = 8,
                                       .short_factors = {1, 1.5, 2, 2.5},
                                       .long_factors = {1, 3, 5, 7},
                                       .original_context = 4096,
                                       .short_mscale = 1.1,
                                       .long_mscale = 1.3};

}  // namespace

TEST_CASE("phimoe: who decides between short and long", "[frequencies][phimoe]") {
    for (const auto choice :
         {phimoe_choice::per_sequence, phimoe_choice::magnitude_only, phimoe_choice::per_engine})
        for (const std::int64_t n : {1, 4096, 4097, 131072}) {
            auto c = small;
            c.choice = choice;
            const auto s = frequencies::phimoe(c, n);
            const bool is_long = n > 4096;
            CHECK(s.magnitude() == (is_long ? 1.3 : 1.1));
            const auto& factors =
                is_long && choice != phimoe_choice::magnitude_only ? c.long_factors : c.short_factors;
            for (rw::index i = 0; i < 4; ++i)
                CHECK(s.omega(i) == Approx(double(std::pow(1e4L, -i / 4.0L) / factors[i])).epsilon(1e-15));
        }
}

TEST_CASE("phimoe: equal factors and magnitudes do not see the length", "[frequencies][phimoe][reduces]") {
    auto c = small;
    c.long_factors = c.short_factors;
    c.long_mscale = c.short_mscale;
    CHECK(frequencies::phimoe(c, 5).omegas() == frequencies::phimoe(c, 5000).omegas());
    CHECK(frequencies::phimoe(c, 5).magnitude() == frequencies::phimoe(c, 5000).magnitude());
}

TEST_CASE("phimoe: a magnitude that is not given is LongRoPE's", "[frequencies][phimoe][reduces]") {
    auto c = small;
    c.short_mscale = {};
    c.long_mscale = {};
    c.max_context = 32 * 4096;
    CHECK(frequencies::phimoe(c, 9).magnitude() == Approx(1.1902380714238083).epsilon(1e-15));
    CHECK(frequencies::phimoe(c, 9000).omegas() == frequencies::longrope({.rotary_dim = 8,
                                                                          .short_factors = c.short_factors,
                                                                          .long_factors = c.long_factors,
                                                                          .original_context = 4096,
                                                                          .max_context = c.max_context},
                                                                         9000)
                                                       .omegas());
}

TEST_CASE("phimoe: refuses what longrope refuses", "[frequencies][phimoe][errors]") {
    auto c = small;
    c.long_factors.pop_back();
    CHECK_REFUSES("longrope: long_factors must hold one number > 0 a pair, got 3 numbers for 4 pairs",
                  frequencies::phimoe(c, 5000));
    CHECK_REFUSES("phimoe: context_length must be >= 1, got 0", frequencies::phimoe(small, 0));
    c = small;
    c.long_mscale = -1;
    CHECK_REFUSES("longrope: attention_factor must be finite and > 0, got -1", frequencies::phimoe(c, 5000));
}
