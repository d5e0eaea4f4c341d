// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/llama4_vision.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::angles_of;
using support::near;

TEST_CASE("Llama 4 vision: worked example, coordinates from 1, class token last",
          "[schemes][llama4_vision]") {
    const auto rope = rw::llama4_vision::axial({.head_dim = 8});
    const auto where = rw::llama4_vision::patches({.side = 2});
    REQUIRE(where.tokens() == 5);
    CHECK(near(angles_of(rope, where, 0), {1, 0.01, 1, 0.01}));
    CHECK(near(angles_of(rope, where, 1), {2, 0.02, 1, 0.01}));  // the column comes first
    CHECK(near(angles_of(rope, where, 4), {0, 0, 0, 0}));
    CHECK_FALSE(where.touched(4));
    CHECK(rw::llama4_vision::axial({}).spectrum_for(1).pairs() == 44);
    CHECK_REFUSES("llama4_vision::axial: head_dim must be a multiple of 4 and > 0, got 90",
                  rw::llama4_vision::axial({.head_dim = 90}));
}

TEST_CASE("Llama 4 vision: patches from 0 on change the scores with the class token only",
          "[schemes][llama4_vision][invariant]") {
    const auto rope = rw::llama4_vision::axial({.head_dim = 8});
    const auto run = [&](double first, auto check) {
        const auto where = rw::llama4_vision::patches({.side = 3, .first = first});
        support::heads_buffer<double> q({1, 10, 1, 8}), k({1, 10, 1, 8});
        q.fill(1);
        k.fill(2);
        const auto class_token = q.dense();
        const auto table = rw::make_rotation_table<double>(rope.spectrum_for(1), where);
        rw::rotate(rope, q.view(), k.view(), table);
        const auto after = q.dense();
        for (std::size_t c = 72; c < 80; ++c) CHECK(after[c] == class_token[c]);
        std::vector<double> scores;
        for (rw::index i = 0; i < 10; ++i)
            for (rw::index j = 0; j < 10; ++j) {
                double sum = 0;
                for (rw::index c = 0; c < 8; ++c) sum += q.view().at(0, i, 0)[c] * k.view().at(0, j, 0)[c];
                scores.push_back(sum);
            }
        check(scores);
    };
    run(1, [&](const std::vector<double>& from_one) {
        run(0, [&](const std::vector<double>& from_zero) {
            for (std::size_t i = 0; i < 100; ++i) {
                const bool patches = i / 10 < 9 && i % 10 < 9, classes = i == 99;
                CHECK((std::abs(from_one[i] - from_zero[i]) < 1e-12) == (patches || classes));
            }
        });
    });
}

TEST_CASE("Llama 4 vision: what was given is refused by its name", "[schemes][llama4_vision][errors]") {
    CHECK_REFUSES("llama4_vision::patches: side must be >= 0, got -1",
                  rw::llama4_vision::patches({.side = -1}));
    CHECK_REFUSES("llama4_vision::patches: first must be finite, got nan",
                  rw::llama4_vision::patches({.side = 2, .first = std::nan("")}));
    CHECK_REFUSES("llama4_vision::patches: class_tokens must be >= 0, got -2",
                  rw::llama4_vision::patches({.side = 2, .class_tokens = -2}));
}
