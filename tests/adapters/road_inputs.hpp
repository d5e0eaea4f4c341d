// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/adapters/road.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>

#include "support/numbers.hpp"

// Adapters for the tests of road and road_bank.
namespace road_inputs {

namespace rw = ropewalk;
namespace road = ropewalk::road;

inline road::adapter random_adapter(road::adapter_config config, unsigned seed) {
    const auto count = road::parameter_count(config);
    return {config, support::noise(count, seed), support::noise(count, seed + 1, {.centre = 1.5})};
}
/// R h by the dense matrix.
inline std::vector<double> expected(const road::pair_blocks& r, const std::vector<double>& h) {
    const Eigen::MatrixXd m = road::make_matrix(r);
    std::vector<double> y;
    for (std::size_t at = 0; at < h.size(); at += static_cast<std::size_t>(m.rows())) {
        const Eigen::VectorXd row = m * Eigen::Map<const Eigen::VectorXd>(h.data() + at, m.rows());
        y.insert(y.end(), row.data(), row.data() + row.size());
    }
    return y;
}
/// Every row of h by one adapter.
template <class T>
void mix(const road::pair_blocks& r, std::vector<T>& h) {
    const auto tokens = static_cast<rw::index>(h.size()) / r.channels();
    const std::vector<std::int32_t> same(static_cast<std::size_t>(tokens), 0);
    const auto table = road::make_table<rw::compute_t<T>>(r);
    rw::mix_pairs(r.layout(), rw::heads_view<T>(h.data(), tokens, 1, r.channels()),
                  table.rows(std::span<const std::int32_t>(same)));
}

}  // namespace road_inputs
