// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// HiRoPE over a source file (one of the library's headers, or the one named): the fast pairs read the token
// inside a function, slower ones the function inside a class, the slowest the number of functions and
// classes. Near tokens have plain positions.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "../include/ropewalk/positions/hierarchy.hpp";
    std::ifstream file(path);
    if (!file) return std::printf("cannot read %s\n", path), 1;
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    // Tokens are words and punctuation marks.
    std::vector<std::size_t> offsets;
    const auto word = [&](std::size_t at) {
        return std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_';
    };
    for (std::size_t i = 0; i < text.size(); ++i)
        if (!std::isspace(static_cast<unsigned char>(text[i])) && (!word(i) || i == 0 || !word(i - 1)))
            offsets.push_back(i);
    // Axis 0: tokens; axis 1: functions of a class; axis 2: functions and classes.
    constexpr rw::index levels = 3;
    const auto units = rw::positions::find_code_units(text, {.levels = levels});
    for (const auto& unit : units) {
        const std::string line = text.substr(unit.offset, 60), code = line.substr(0, line.find('\n'));
        std::printf("%*s%td: %s\n", int(2 * (levels - unit.level)), "", unit.level, code.c_str());
    }
    const auto starts = rw::positions::make_unit_starts(units, offsets, levels);
    rw::positions::hierarchy_counter counter(levels);
    std::vector<double> positions;
    for (rw::index n = 0; n < static_cast<rw::index>(offsets.size()); ++n) {
        for (rw::index level = 1; level < levels; ++level)
            if (std::ranges::count(starts[std::size_t(level - 1)], n) > 0) counter.begin_unit(level);
        for (const double at : counter.next()) positions.push_back(at);
    }
    const rw::index tokens = counter.tokens();
    const auto where = rw::position_ids::from_tokens_axes(positions, levels);
    double most[levels] = {};
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index axis = 0; axis < levels; ++axis) most[axis] = std::max(most[axis], where.at(n, axis));
    std::printf("%td tokens; HiRoPE: token %.0f, function of a class %.0f, unit %.0f\n", tokens, most[0],
                most[1], most[2]);
    const bool same = rw::positions::hierarchy({.tokens = tokens, .starts = starts}).values() == positions;
    std::printf("counted while reading as in the finished file: %s\n", same ? "yes" : "no");

    constexpr rw::index channels = 64, window = 32;
    std::vector<float> q(static_cast<std::size_t>(tokens * channels));
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    for (float& x : q) x = normal(engine);
    auto k = q, far_q = q, far_k = q;
    const auto view = [&](std::vector<float>& x) { return rw::heads_view(x.data(), tokens, 1, channels); };
    const auto rope = rw::hirope::hierarchical({.head_dim = channels, .channels_of_level = {32, 16, 16}});
    const auto plain = rw::frequencies::geometric({.rotary_dim = channels});
    rw::rotate(rope, view(far_q), view(far_k), rw::make_rotation_table(rope.spectrum_for(1), where));
    const auto near_rows = rw::make_rotation_table(plain, rw::position_ids::text(tokens));
    rw::rotate(rw::half_split{}, view(q), view(k), near_rows);
    std::vector<float> merged(static_cast<std::size_t>(tokens * tokens)), all_near(merged);
    rw::fill_windowed_scores(view(q), view(k), view(far_q), view(far_k), std::span(merged), {window});
    rw::fill_windowed_scores(view(q), view(k), view(q), view(k), std::span(all_near), {.window = tokens});
    rw::index equal = 0, near = 0;
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index j = std::max<rw::index>(0, n - window + 1); j <= n; ++j, ++near)
            equal += merged[std::size_t(n * tokens + j)] == all_near[std::size_t(n * tokens + j)];
    std::printf("closer than %td tokens: %td of %td scores are plain RoPE's bits\n", window, equal, near);
    return same && equal == near ? 0 : 1;
}
