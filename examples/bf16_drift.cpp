// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// How much does a score change when both positions are shifted? In exact arithmetic it does not. Measured
// under eight ways of rounding, for random vectors and for real queries and keys of the tiny checkpoint, also
// key by key.
//     bf16_drift [--svg FILE]
#include <cstring>
#include <numeric>
#include <random>

#include <ropewalk/analysis/precision_drift.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "figures/svg.hpp"
#include "tinylm/model.hpp"

namespace {

namespace rw = ropewalk;
namespace drift = rw::drift;

const std::vector<double> shifts{0, 16, 256, 1000, 4096, 16384, 65536, 131072}, offsets{0, 1, 16, 128};

struct vectors {
    std::string what;
    std::vector<double> q, k;
    rw::index channels;
};
double rounded(double x) { return static_cast<double>(static_cast<float>(rw::bf16(static_cast<float>(x)))); }

vectors random_vectors() {
    vectors v{"unit normal, 64 channels, base 1e4", {}, {}, 64};
    std::mt19937 engine(1);
    std::normal_distribution<double> draw;
    for (int i = 0; i < 64 * 64; ++i)
        v.q.push_back(rounded(draw(engine))), v.k.push_back(rounded(draw(engine)));
    return v;
}
/// Queries and keys of the second layer's first head, taken before they are rotated.
vectors real_vectors() {
    const auto m = tinylm::load_model("data/tinylm");
    const auto text = tinylm::read_file("data/tinylm/heldout.txt").substr(0, 64);
    vectors v{"tiny checkpoint, second layer, 32 channels", {}, {}, m.head_dim};
    const auto usual = tinylm::make_hook(rw::make_model_schemes(rw::from_huggingface(m.config)), 256);
    tinylm::kv_cache<> cache(m, 64);
    tinylm::forward(m, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, cache,
                    [&](rw::index layer, rw::heads_view<float> q, rw::heads_view<float> k, auto positions) {
                        for (rw::index n = 0; layer == 1 && n < q.tokens(); ++n)
                            for (rw::index c = 0; c < q.channels(); ++c) {
                                v.q.push_back(rounded(static_cast<double>(q.at(0, n, 0)[c])));
                                v.k.push_back(rounded(static_cast<double>(k.at(0, n, 0)[c])));
                            }
                        usual(layer, q, k, positions);
                    });
    return v;
}

}  // namespace

int main(int count, char** text) try {
    svg::chart picture{.title = "Scores when both positions are shifted",
                       .x_label = "shift",
                       .y_label = "mean |change|",
                       .x_scale = svg::axis_scale::log2,
                       .y_scale = svg::axis_scale::log10};
    for (const vectors& v : {random_vectors(), real_vectors()}) {
        const auto wide = rw::frequencies::geometric({.rotary_dim = v.channels}).omegas();
        const std::vector<float> omega(wide.begin(), wide.end());
        std::printf("mean |score(shift) - score(0)|, %s\n%-20s", v.what.c_str(), "shift");
        for (std::size_t s = 1; s < shifts.size(); ++s) std::printf("%10.0f", shifts[s]);
        for (auto mode : drift::all_modes) {
            const std::string name(drift::name_of(mode));
            const auto mean = drift::make_shift_table(mode, v.q, v.k, {omega}, shifts, offsets).mean;
            std::printf("\n%-20s", name.c_str());
            for (std::size_t s = 1; s < shifts.size(); ++s) std::printf("%10.1e", mean[s]);
            if (v.channels == 64) picture.lines.push_back({name, shifts, mean});
        }
        const auto moved = drift::make_column_table(drift::mode::table_bf16, v.q, v.k, {omega}, 0, 16).logits;
        std::printf(
            "\ntable_bf16, shift 16, by key: scores of key 0 move %.1e, of the others %.1e\n\n", moved[0],
            std::accumulate(moved.begin() + 1, moved.end(), 0.0) / static_cast<double>(moved.size() - 1));
    }
    if (count == 3 && std::strcmp(text[1], "--svg") == 0) svg::write(text[2], picture);
} catch (const std::exception& error) {
    std::fprintf(stderr, "bf16_drift: %s\n", error.what());
    return 1;
}
