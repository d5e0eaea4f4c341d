// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/stable_audio.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace stable_audio = ropewalk::stable_audio;

TEST_CASE("Stable Audio: half of the channels turn, half-split among themselves", "[schemes][stable_audio]") {
    const auto rope = stable_audio::self_attention({});
    CHECK(rope.rotary_dim == 32);
    const auto angles = support::angles_of(rope, rw::position_ids::text(1, 3), 0);
    CHECK(angles[0] == Approx(3));
    CHECK(angles[1] == Approx(3 * 0.562341).epsilon(1e-6));
    support::heads_buffer<float> x({1, 2, 1, 64});
    x.fill(1);
    const auto before = x.numbers();
    rw::rotate(rope, x.view(), rw::make_rotation_table(rope.spectrum_for(1), rw::position_ids::text(2)));
    const auto after = x.numbers();
    for (std::size_t c = 32; c < 64; ++c) CHECK(after[64 + c] == before[64 + c]);
    CHECK(after[64] == Approx(before[64] * std::cos(1.0) - before[64 + 16] * std::sin(1.0)).epsilon(1e-6));
}

TEST_CASE("Stable Audio: at least 32 channels", "[schemes][stable_audio]") {
    CHECK(stable_audio::self_attention({.head_dim = 40}).rotary_dim == 32);
    CHECK(stable_audio::self_attention({.head_dim = 128}).rotary_dim == 64);
    CHECK_REFUSES("stable_audio::self_attention: head_dim must hold the channels that rotate, got 24",
                  stable_audio::self_attention({.head_dim = 24}));
}

TEST_CASE("Stable Audio: interpolation and base rescale", "[schemes][stable_audio]") {
    const auto plain = stable_audio::self_attention({}).spectrum_for(1);
    const auto slow = stable_audio::self_attention({.interpolation_factor = 4}).spectrum_for(1);
    const auto based = stable_audio::self_attention({.base_rescale_factor = 2}).spectrum_for(1);
    for (rw::index i = 0; i < 16; ++i) {
        CHECK(slow.omega(i) == Approx(plain.omega(i) / 4));
        CHECK(based.omega(i) ==
              Approx(std::pow(1e4 * std::pow(2.0, 32.0 / 30), -static_cast<double>(i) / 16)));
    }
    CHECK_REFUSES("linear: factor must be finite and > 0, got 0",
                  stable_audio::self_attention({.interpolation_factor = 0}));
    CHECK_REFUSES("stable_audio::self_attention: base_rescale_factor must be finite and > 0, got -1",
                  stable_audio::self_attention({.base_rescale_factor = -1}));
}
