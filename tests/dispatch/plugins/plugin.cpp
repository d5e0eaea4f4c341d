// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A plugin that uses the headers. two_plugins.cpp loads several, compiled from different versions and in
// different modes, with every symbol visible and nothing inlined: each must run its own code.
#include "plugin.h"

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <vector>

namespace rw = ropewalk;

namespace {

float rotated() {
    std::vector<float> x(8, 1.0f);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 4}), rw::position_ids::text(2, 1));
    rw::rotate(rw::half_split{}, rw::heads_view<float>(x.data(), 2, 1, 4), table);
    return x[0];  // cos 1 - sin 1
}
int misfit() {
#if ROPEWALK_DETAIL_ON_MISFIT == 1
    return -1;  // would end the program
#else
    std::vector<float> x(8, 1.0f);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 4}), rw::position_ids::text(3, 1));
    return rw::rotate(rw::half_split{}, rw::heads_view<float>(x.data(), 2, 1, 4), table) ? 1 : 0;
#endif
}
int refused() {
#if defined(__cpp_exceptions)
    try {
        static_cast<void>(rw::frequencies::geometric({.rotary_dim = 3}));
        return 0;
    } catch (const rw::invalid_config&) {
        return 1;
    }
#else
    return -1;  // would end the program
#endif
}

}  // namespace

extern "C" plugin_says plugin() { return {ROPEWALK_VERSION_STRING, rotated(), misfit(), refused()}; }
