// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <vector>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace support {

/// The un-reduced angles of one token, one a pair: what the worked examples of a scheme list.
inline std::vector<double> angles_of(const ropewalk::rotary_scheme& rope, const ropewalk::position_ids& where,
                                     ropewalk::index token, ropewalk::index head = 0) {
    const auto s = rope.spectrum_for(1);
    const auto all = ropewalk::make_angles(s, where);
    const auto first = all.begin() + (token * s.heads() + head) * s.pairs();
    return {first, first + s.pairs()};
}

inline bool near(const std::vector<double>& got, const std::vector<double>& want, double relative = 1e-5) {
    if (got.size() != want.size()) return false;
    for (std::size_t i = 0; i < got.size(); ++i)
        if (!(std::abs(got[i] - want[i]) <= relative * std::abs(want[i]) + 1e-15)) return false;
    return true;
}

}  // namespace support
