// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/retrieval_selection.hpp>

#include <numeric>
#include <set>

#include "tests/support/catch.hpp"
#include "tests/support/numbers.hpp"

namespace rw = ropewalk;

TEST_CASE("retrieval_selection: the tokens are those of a stable sort by their codewords' scores",
          "[compression][retrieval]") {
    for (rw::index tokens : {1, 9, 60})
        for (rw::index codewords : {1, 4, 33})
            for (rw::index wanted : {0, 1, 5, 100}) {
                constexpr rw::index group = 2;
                rw::detail::retrieval_scratch<float> at(group, codewords, 4, 4);
                at.attended.resize(static_cast<std::size_t>(tokens) + 1);
                const auto numbers = support::noise(group * codewords, 3);
                for (std::size_t i = 0; i < numbers.size(); ++i)
                    at.scores[i] = static_cast<float>(numbers[i]);
                rw::detail::retrieval_state state{
                    {}, std::vector<std::int32_t>(static_cast<std::size_t>(codewords))};
                for (const double x : support::noise(tokens, 4, {.centre = 0.5, .width = 0.5})) {
                    const auto label = static_cast<std::uint16_t>(x * static_cast<double>(codewords));
                    state.labels.push_back(label);
                    ++state.counts[label];
                }
                const auto counts = state.counts;
                const rw::index sinks = std::min<rw::index>(2, tokens), window = std::max(sinks, tokens - 3);
                const rw::detail::retrieval_item item{state, tokens, sinks, window, std::min(wanted, tokens),
                                                      0};
                std::set<std::int32_t> want;
                for (rw::index n = 0; n < tokens; ++n)
                    if (n < sinks || n >= window) want.insert(static_cast<std::int32_t>(n));
                for (rw::index g = 0; g < group; ++g) {
                    std::vector<rw::index> order(static_cast<std::size_t>(window - sinks));
                    std::iota(order.begin(), order.end(), sinks);
                    const auto score = [&](rw::index n) {
                        return at.scores[static_cast<std::size_t>(g * codewords +
                                                                  state.labels[static_cast<std::size_t>(n)])];
                    };
                    std::stable_sort(order.begin(), order.end(),
                                     [&](rw::index a, rw::index b) { return score(a) > score(b); });
                    for (std::size_t j = 0; j < std::min(order.size(), static_cast<std::size_t>(wanted)); ++j)
                        want.insert(static_cast<std::int32_t>(order[j]));
                }
                const rw::index rows = at.select(item);
                CAPTURE(tokens, codewords, wanted);
                CHECK(std::vector<std::int32_t>(at.attended.begin(), at.attended.begin() + rows) ==
                      std::vector<std::int32_t>(want.begin(), want.end()));
                CHECK(state.counts == counts);  // protected tokens are back
            }
}
