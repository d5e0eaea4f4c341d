// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/hope_text.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("hope_text: pairs that complete a period turn, the others stand still",
          "[frequencies][hope_text]") {
    struct {
        rw::index dim;
        double base, length;
        rw::index kept;
    } const cases[] = {{128, 1e4, 512, 31}, {64, 1e4, 4096, 23}, {128, 5e5, 8192, 35}};
    for (const auto& c : cases) {
        const auto s =
            frequencies::hope_text({.rotary_dim = c.dim, .base = c.base, .trained_context = c.length});
        rw::index kept = 0;
        for (rw::index i = 0; i < s.pairs(); ++i) {
            const long double theta = std::pow((long double)c.base, -2.0L * i / c.dim);
            const bool turns = theta * c.length > 2 * std::acos(-1.0L);
            CHECK((s.omega(i) != 0) == turns);
            if (turns) CHECK(s.omega(i) == Approx(double(theta)).epsilon(1e-15));
            kept += turns;
        }
        CHECK(kept == c.kept);
    }
}

TEST_CASE("hope_text: a long enough context is RoPE, cut_more takes more",
          "[frequencies][hope_text][reduces]") {
    CHECK(frequencies::hope_text({.rotary_dim = 16, .trained_context = 1e9}).omegas() ==
          frequencies::geometric({.rotary_dim = 16}).omegas());
    const auto cut =
        frequencies::hope_text({.rotary_dim = 16, .trained_context = 1e9, .cut_more = 3}).omegas();
    for (rw::index i = 0; i < 8; ++i) CHECK((cut[i] == 0) == (i >= 5));
    const auto none =
        frequencies::hope_text({.rotary_dim = 16, .trained_context = 1e9, .cut_more = 30}).omegas();
    for (const double omega : none) CHECK(omega == 0);
}

TEST_CASE("hope_text: refuses bad numbers", "[frequencies][hope_text][errors]") {
    CHECK_REFUSES("pairs_that_complete: length must be finite and > 0, got 0",
                  frequencies::hope_text({.rotary_dim = 8}));
    CHECK_REFUSES("hope_text: cut_more must be >= 0, got -1",
                  frequencies::hope_text({.rotary_dim = 8, .trained_context = 64, .cut_more = -1}));
}
