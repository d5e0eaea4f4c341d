// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// A small layer of MuseControlLite with random weights, for the tests of the layer and of its files.

#include <ropewalk/adapters/musecontrollite.hpp>

#include "support/gaussian.hpp"

namespace muse_layers {

namespace rw = ropewalk;
namespace muse = ropewalk::musecontrollite;

inline const muse::control_config config{.heads = 4, .kv_heads = 2, .head_dim = 6, .condition_channels = 5};

inline muse::control_weights<double> random_weights(unsigned seed) {
    return {.to_k = support::gaussian(12, 5, seed),
            .to_v = support::gaussian(12, 5, seed + 1),
            .conv_out = support::gaussian(24, 24, seed + 2)};
}

}  // namespace muse_layers
