// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// HiRoPE over a source file (one of this folder, or the one named): the fast pairs count the tokens inside a
// function, the slow pairs the functions; close by, plain positions hold.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>

#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "tinylm/model.hpp";
    std::ifstream file(path);
    if (!file) return std::printf("cannot read %s\n", path), 1;
    // Tokens are words and marks. A unit starts where a line opens a brace without being indented.
    rw::positions::hierarchy_counter counter;
    std::vector<double> positions;
    std::vector<rw::index> starts;
    for (std::string line; std::getline(file, line);) {
        const bool opens = !line.empty() && !std::isspace(static_cast<unsigned char>(line[0])) &&
                           line.back() == '{' && !line.starts_with("namespace");
        if (opens && counter.tokens() > 0) {
            starts.push_back(counter.tokens());
            counter.begin_unit();
        }
        bool in_word = false;
        for (const char c : line) {
            const bool word = std::isalnum(static_cast<unsigned char>(c)) || c == '_';
            const bool begins = word ? !in_word : !std::isspace(static_cast<unsigned char>(c));
            if (begins)
                for (const double at : counter.next()) positions.push_back(at);
            in_word = word;
        }
    }
    const rw::index tokens = counter.tokens();
    const auto where = rw::position_ids::from_tokens_axes(positions, 2);
    double token = 0, unit = 0;
    for (rw::index n = 0; n < tokens; ++n) {
        token = std::max(token, where.at(n, 0));
        unit = std::max(unit, where.at(n, 1));
    }
    std::printf("%s: %td tokens, largest position %td; HiRoPE: token %.0f of a unit, unit %.0f\n", path,
                tokens, tokens - 1, token, unit);
    const bool same = rw::positions::hierarchy({.tokens = tokens, .starts = {starts}}).values() == positions;
    std::printf("positions counted while reading equal those of the finished file: %s\n",
                same ? "yes" : "no");

    constexpr rw::index channels = 64, window = 32;
    std::vector<float> q(static_cast<std::size_t>(tokens * channels));
    std::mt19937 engine(5);
    std::normal_distribution<float> normal;
    for (float& x : q) x = normal(engine);
    auto k = q, far_q = q, far_k = q;
    const auto view = [&](std::vector<float>& x) { return rw::heads_view(x.data(), tokens, 1, channels); };
    const auto rope = rw::hirope::hierarchical({.head_dim = channels});
    const auto plain = rw::frequencies::geometric({.rotary_dim = channels});
    rw::rotate(rope, view(far_q), view(far_k), rw::make_rotation_table(rope.spectrum_for(1), where));
    rw::rotate(rw::half_split{}, view(q), view(k),
               rw::make_rotation_table(plain, rw::position_ids::text(tokens)));
    std::vector<float> merged(static_cast<std::size_t>(tokens * tokens)), all_near(merged);
    rw::fill_windowed_scores(view(q), view(k), view(far_q), view(far_k), std::span(merged),
                             {.window = window});
    rw::fill_windowed_scores(view(q), view(k), view(q), view(k), std::span(all_near), {.window = tokens});
    rw::index equal = 0, near = 0;
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index j = std::max<rw::index>(0, n - window + 1); j <= n; ++j, ++near)
            equal += merged[static_cast<std::size_t>(n * tokens + j)] ==
                     all_near[static_cast<std::size_t>(n * tokens + j)];
    std::printf("closer than %td tokens: %td of %td scores have the bits of plain RoPE\n", window, equal,
                near);
    return same && equal == near ? 0 : 1;
}
