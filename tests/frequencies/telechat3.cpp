// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/telechat3.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("telechat3: YaRN's frequencies under a weaker temperature", "[frequencies][telechat3]") {
    const frequencies::yarn_config c{
        .rotary_dim = 128, .base = 1e6, .factor = 8, .original_context = 32768, .attn_factor = 2};
    const auto s = frequencies::telechat3_yarn(c);
    CHECK(s.omegas() == frequencies::yarn(c).omegas());
    CHECK(s.magnitude() == Approx(double(2 * (0.07L * std::log(8.0L) + 1))).epsilon(1e-15));
    CHECK(frequencies::telechat3_mscale(4) == Approx(1.0970406052783923).epsilon(1e-15));
    CHECK(frequencies::telechat3_mscale(32) == Approx(1.242601513195981).epsilon(1e-15));
}

TEST_CASE("telechat3: no extension leaves the plain ladder, and mscales are not read",
          "[frequencies][telechat3][reduces]") {
    const auto s = frequencies::telechat3_yarn({.rotary_dim = 16,
                                                .factor = 1,
                                                .original_context = 4096,
                                                .attention_factor = 5,
                                                .mscale = 3,
                                                .mscale_all_dim = 2});
    CHECK(s.magnitude() == 1);
    for (ropewalk::index i = 0; i < 8; ++i)
        CHECK(s.omega(i) == Approx(frequencies::geometric({.rotary_dim = 16}).omega(i)).epsilon(1e-15));
    CHECK_REFUSES("yarn: factor must be > 0, got -1",
                  frequencies::telechat3_yarn({.rotary_dim = 16, .factor = -1, .original_context = 64}));
}
