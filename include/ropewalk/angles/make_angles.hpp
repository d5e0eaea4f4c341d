// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The angles position * omega in f64, without reduction, for inspection and tests.
#pragma once

#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

/// The angles in f64, not reduced: sum over axes of position * omega.
/// Shapes:   [tokens, heads or 1, pairs], row-major; zero for untouched tokens.
/// Units:    radians.
/// Throws:   invalid_config if the axes differ.
/// Accuracy: half an ulp of the angle for each axis. For inspection and tests; tables are built from reduced
///           turns and are more accurate.
/// Source:   RoFormer, Su et al. 2021, eq. 14.
inline std::vector<double> make_angles(const spectrum& s, const position_ids& positions) {
    detail::require_equal("make_angles", "positions must have the spectrum's axes", s.axes(),
                          positions.axes());
    const std::vector<double> values = positions.values();
    std::vector<double> angles;
    angles.reserve(static_cast<std::size_t>(positions.tokens() * s.heads() * s.pairs()));
    for (index n = 0; n < positions.tokens(); ++n)
        for (index h = 0; h < s.heads(); ++h)
            for (index i = 0; i < s.pairs(); ++i) {
                double angle = 0;
                for (index a = 0; a < s.axes(); ++a)
                    angle += values[static_cast<std::size_t>(n * s.axes() + a)] * s.omega(h, a, i);
                angles.push_back(angle);
            }
    return angles;
}

}  // namespace ROPEWALK_NAMESPACE
