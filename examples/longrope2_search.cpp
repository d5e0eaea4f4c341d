// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// LongRoPE2's search on the tiny checkpoint: divisors of the frequencies for twice the trained context,
// evolved by how well the model continues a line of text that occurs earlier in the window.
//     longrope2_search [ROUNDS [SEED]]
#include <cstdio>
#include <cstdlib>
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <ropewalk/analysis/longrope2_search.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include "tinylm/needle.hpp"

namespace {
using namespace tinylm;

int run(rw::index rounds, unsigned seed) {
    const auto m = load_model("data/tinylm");
    const auto text = read_file("data/tinylm/heldout.txt");
    const tokens_view bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    constexpr rw::index trained = 256, context = 512;
    constexpr double factor = static_cast<double>(context) / trained;
    const auto needles = make_needles(text, context, 6, 1), unseen = make_needles(text, context, 12, 2);
    rw::frequencies::longrope_config longrope{.rotary_dim = m.head_dim, .original_context = trained};
    longrope.factor = factor;
    longrope.short_factors.assign(static_cast<std::size_t>(m.head_dim / 2), 1.0);
    const auto with = [&](std::span<const double> factors) {
        longrope.long_factors.assign(factors.begin(), factors.end());
        return schemes_with(m, rw::frequencies::longrope(longrope, context));
    };
    const auto loss = [&](const rw::model_schemes& schemes, const std::vector<needle_sample>& of) {
        return needle_loss(m, of, [&] { return make_hook(schemes, context); });
    };

    const auto found = rw::analysis::find_longrope2_factors(
        {.bounds = {.rotary_dim = m.head_dim,
                    .original_context = trained,
                    .target_context = context,
                    .largest_factor = 1.5 * factor},
         .population = 24,
         .rounds = rounds,
         .parents = 8,
         .mutations = 6,
         .crossovers = 6,
         .step = 0.05,
         .seed = seed},
        [&](std::span<const double> factors) { return loss(with(factors), needles); },
        [](rw::analysis::search_state s) {
#if __has_include(<unistd.h>)
            if (isatty(STDERR_FILENO) == 0) return;  // not into log files
#endif
            std::fprintf(stderr, "\rsearch %td of %td, least %.4f%s", s.done, s.most, s.least,
                         s.done == s.most ? "\n" : "");
        });
    std::printf("least needle perplexity by round:");
    for (const double best : found.by_round) std::printf(" %.3f", best);
    std::printf("\ndivisors:");
    for (const double f : found.factors) std::printf(" %.2f", f);
    const auto plain = schemes_with(m, rw::frequencies::geometric({.rotary_dim = m.head_dim}));
    const auto yarn = schemes_with(
        m, rw::frequencies::yarn({.rotary_dim = m.head_dim, .factor = factor, .original_context = trained}));
    std::printf("\n\n%-10s %22s %22s %16s\n", "", "needles searched with", "other needles", "nats per byte");
    const auto report = [&](const char* name, const auto& schemes) {
        const auto quality =
            score(m, bytes.first(8192), context, [&] { return make_hook(schemes, context); });
        std::printf("%-10s %22.3f %22.3f %16.4f\n", name, loss(schemes, needles), loss(schemes, unseen),
                    quality.nats_per_byte);
    };
    report("none", plain);
    report("YaRN", yarn);
    report("LongRoPE2", with(found.factors));
    return found.loss <= found.by_round.front() ? 0 : 1;
}

}  // namespace

int main(int count, char** text) {
    const auto given = [&](int n, long otherwise) { return count > n ? std::atol(text[n]) : otherwise; };
    return run(given(1, 16), static_cast<unsigned>(given(2, 1)));
}
