// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// FreeFlux's probe on two attention layers over a 16 x 16 image after 8 text tokens. In one, queries and keys
// depend on the content of a patch; in the other they are nearly the same everywhere, so only positions
// distinguish patches. Queries keep their rotation; keys are not rotated, or are shifted. A high PSNR against
// the normal output means that a layer hardly needs positions.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;
namespace freeflux = ropewalk::freeflux;

namespace {

constexpr rw::index text = 8, side = 16, tokens = text + side * side, heads = 2, channels = 128;
using data = std::vector<float>;

rw::heads_view<float> view(data& x) { return {x.data(), tokens, heads, channels}; }

/// A vector of all patches plus `own` times one of each patch, the same for query and key.
data content(float common, float own, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    data shared(heads * channels), x(tokens * heads * channels);
    for (float& v : shared) v = normal(engine);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = common * shared[i % shared.size()] + own * normal(engine);
    return x;
}

double psnr(const data& a, const data& b) {
    double error = 0, least = a[0], most = a[0];
    for (std::size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        least = std::min<double>(least, a[i]);
        most = std::max<double>(most, a[i]);
    }
    return 10 * std::log10(std::pow(most - least, 2) * static_cast<double>(a.size()) / error);
}

}  // namespace

int main() {
    const auto rope = rw::flux::joint({});
    const auto omega = rope.spectrum_for(1);
    const auto where = rw::flux::flux1_positions({.text_tokens = text, .generated = {side, side}});
    const auto queries = rw::make_factored_table(omega, where);
    data v = content(0, 1, 9);

    double mean[2] = {};
    std::printf("%-24s %16s %18s   (PSNR, dB)\n", "keys", "content layer", "position layer");
    for (const auto& probe : freeflux::probes) {
        double by_layer[2];
        for (rw::index layer = 0; layer < 2; ++layer) {
            const data x = layer == 0 ? content(0, 1.2F, 1) : content(0.7F, 0.1F, 2);
            const auto run = [&](const freeflux::key_change& change) {
                data q = x, k = x, out(x.size());
                const auto keys = rw::make_factored_table(omega, freeflux::key_positions(where, change));
                rw::rotate(rope.read_layout, view(q), queries);
                rw::rotate(rope.read_layout, view(k), keys);
                rw::attend(view(q), view(k), view(v), view(out));
                return out;
            };
            by_layer[layer] = psnr(run({}), run(probe));
            mean[layer] += by_layer[layer] / freeflux::probes.size();
        }
        std::printf("%s by (%2.0f, %2.0f) %20.1f %18.1f\n",
                    probe.mode == freeflux::key_mode::shifted ? "moved      " : "not rotated", probe.rows,
                    probe.columns, by_layer[0], by_layer[1]);
    }
    std::printf("%-24s %16.1f %18.1f\n", "mean", mean[0], mean[1]);
    return mean[0] > mean[1] ? 0 : 1;
}
