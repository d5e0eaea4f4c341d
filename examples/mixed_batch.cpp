// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// One batch of requests with different scalings: a short one as trained, one with YaRN, and one with
// LongRoPE, whose first tokens keep the trained frequencies. One table set and one rotation for the whole
// batch; each request gets the same bits as alone.
#include <cstdio>
#include <cstring>
#include <random>

#include <ropewalk/angles/table_set.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace rw = ropewalk;
namespace freq = ropewalk::frequencies;

int main() {
    constexpr rw::index dim = 64, heads = 4, width = heads * dim, start_tokens = 4;
    constexpr double trained = 256;
    std::vector<double> divisors;  // of the 32 pairs, from 1 on
    for (int i = 0; i < dim / 2; ++i) divisors.push_back(1 + 7.0 * i / (dim / 2 - 1));
    const std::vector<rw::spectrum> spectra{
        freq::geometric({.rotary_dim = dim}),
        freq::yarn({.rotary_dim = dim, .factor = 4, .original_context = trained}),
        freq::longrope({.rotary_dim = dim,
                        .short_factors = std::vector<double>(divisors.size(), 1.0),
                        .long_factors = divisors,
                        .original_context = trained,
                        .factor = 8},
                       2048)};
    rw::table_set<float> tables(spectra, 256);

    // Prompts of 100, 700 and 1500 tokens, one after the other.
    const std::vector<std::int32_t> lengths{100, 700, 1500};
    std::vector<std::int32_t> positions, table_of_token;
    for (std::size_t r = 0; r < lengths.size(); ++r)
        for (std::int32_t p = 0; p < lengths[r]; ++p) {
            positions.push_back(p);
            table_of_token.push_back(static_cast<std::int32_t>(r));
        }
    const std::span<const std::int32_t> last = std::span(positions).subspan(800);
    rw::fill_start_tables(last, start_tokens, std::span(table_of_token).subspan(800));  // 0 or 1 ...
    for (std::size_t n = 800; n < positions.size(); ++n) table_of_token[n] *= 2;        // ... of ours: 0 or 2

    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(positions.size() * width);
    for (float& value : x) value = normal(engine);
    auto together = x;
    std::vector<std::int32_t> rows(positions.size());
    rw::rotate(rw::half_split{}, rw::heads_view(together.data(), rw::index(positions.size()), heads, dim),
               tables.rows(table_of_token, positions, rows));

    std::size_t first = 0;
    bool same = true;
    const char* names[] = {"as trained", "YaRN, factor 4", "LongRoPE, factor 8"};
    for (std::size_t r = 0; r < lengths.size(); ++r) {
        const auto count = static_cast<std::size_t>(lengths[r]);
        std::vector<float> alone(x.begin() + rw::index(first * width),
                                 x.begin() + rw::index((first + count) * width));
        std::size_t trained_tokens = 0;
        for (std::size_t n = 0; n < count; ++n) {
            const auto table = static_cast<std::size_t>(table_of_token[first + n]);
            trained_tokens += table == 0;
            rw::position_table own(spectra[table], 2048);
            rw::rotate(rw::half_split{}, rw::heads_view(alone.data() + n * width, 1, heads, dim),
                       own.rows(std::span(positions).subspan(first + n, 1)));
        }
        const bool equal =
            std::memcmp(alone.data(), together.data() + first * width, alone.size() * sizeof(float)) == 0;
        std::printf("%-20s %5zu tokens, %4zu on the trained frequencies; %s\n", names[r], count,
                    trained_tokens,
                    equal ? "the bits of the request alone" : "DIFFERENT from the request alone");
        same = same && equal;
        first += count;
    }
    std::printf("one rotation of %zu tokens over %td tables\n", positions.size(), tables.tables());
    return same ? 0 : 1;
}
