// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Agents whose headings are near +-180 degrees: two that face almost the same way should have similar scores,
// whatever the numbers of their headings. DRoPE's score depends on the difference modulo a full turn; that of
// RoPE with the heading as a position does not.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

namespace {

constexpr rw::index channels = 64;

double score(const std::vector<double>& agents) {
    double sum = 0;
    for (rw::index c = 0; c < channels; ++c)
        sum += agents[static_cast<std::size_t>(c)] * agents[static_cast<std::size_t>(channels + c)];
    return sum;
}

}  // namespace

int main() {
    // Two agents with the same content: the score without headings is its squared length.
    std::mt19937 engine(3);
    std::normal_distribution<double> normal;
    std::vector<double> content(channels);
    for (double& x : content) x = normal(engine);
    auto pair_of_agents = content;
    pair_of_agents.insert(pair_of_agents.end(), content.begin(), content.end());
    const double length = score(pair_of_agents);

    const rw::drope::agents scheme({.head_dim = channels, .modes = {rw::drope::head_mode::heading}});
    const auto ladder = rw::frequencies::geometric({.rotary_dim = channels});
    std::printf("two agents that face 2 degrees apart; score relative to equal headings\n");
    std::printf("%10s %10s %12s %12s\n", "heading a", "heading b", "DRoPE", "RoPE");
    double least = 2, most = -2;
    for (const double a : {0.0, 90.0, 179.0, 539.0, -179.0}) {
        // b is 2 degrees further, given as by a sensor: between -180 and 180.
        const std::vector<double> degrees{a, std::remainder(a + 2, 360.0)};
        const auto where = rw::positions::headings_in_degrees(std::span<const double>(degrees));
        auto turned = pair_of_agents, plain = pair_of_agents;
        const rw::heads_view view(turned.data(), 2, 1, channels);
        rw::drope::rotate_scene(
            scheme, view,
            rw::drope::scene<double>(scheme, rw::position_ids::from_tokens_axes(std::vector<double>(4), 2),
                                     where));
        rw::rotate(rw::half_split{}, rw::heads_view(plain.data(), 2, 1, channels),
                   rw::make_rotation_table<double>(ladder, where));
        const double drope = score(turned) / length;
        least = std::min(least, drope);
        most = std::max(most, drope);
        std::printf("%10.0f %10.0f %12.9f %12.9f\n", degrees[0], degrees[1], drope, score(plain) / length);
    }
    std::printf("DRoPE: all five agree to %.1e; cos(2 degrees) = %.9f\n", most - least,
                std::cos(2 * std::numbers::pi / 180));

    constexpr std::size_t many = 4096;
    const rw::uniform_table<float> headings(rw::position_ids::from(std::vector<double>(many)));
    std::printf("%zu agents: %zu bytes of table; one f32 relative heading for every two agents: %zu\n", many,
                headings.byte_count(), many * many * sizeof(float));
    return most - least < 1e-12 ? 0 : 1;
}
