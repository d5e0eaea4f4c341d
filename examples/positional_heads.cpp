// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Which heads of the tiny checkpoint look by position: how many tokens back the most of their attention goes,
// with rotation and without; what they give the first token; what rotation moves to other keys. And the share
// of their queries' and keys' norms in pairs that turn once in less than 64 positions, or in more than the 256
// of training. After Round and Round We Go (2024).     positional_heads [--svg FILE]
#include <ropewalk/analysis/head_patterns.hpp>

#include "figures/svg.hpp"
#include "tinylm/model.hpp"
#include "tinylm/trace.hpp"

namespace tinylm {

namespace analysis = rw::analysis;

/// The share of the norms in pairs whose wavelength lies in [from, to).
double share_of(const std::vector<double>& usage, index head, const std::vector<double>& wavelengths,
                double from, double to) {
    double sum = 0;
    for (std::size_t i = 0; i < wavelengths.size(); ++i)
        if (wavelengths[i] >= from && wavelengths[i] < to)
            sum += usage[static_cast<std::size_t>(head) * wavelengths.size() + i];
    return sum;
}

std::string kind_of(const analysis::head_patterns& p, index head) {
    const auto at = p.distance_of(head, 0.25);
    if (at) return *at == 0 ? "diagonal" : *at == 1 ? "previous token" : std::to_string(*at) + " back";
    return p.moved[static_cast<std::size_t>(head)] < 0.25 ? "content" : "";
}

void run(const std::string& file) {
    const model m = load_model("data/tinylm");
    const std::string bytes = read_file("data/tinylm/heldout.txt");
    const index context = 256;
    const double trained = static_cast<double>(context);
    const auto omega = rw::make_model_schemes(rw::from_huggingface(m.config))[0].spectrum_for(context);
    const auto table = rw::make_rotation_table<double>(omega, rw::position_ids::text(context));
    const auto wavelengths = analysis::make_wavelengths(omega);
    double chance = 0;
    const auto seen = trace_layers(m, bytes.substr(0, 4096), context);
    svg::chart picture{"Which pairs a layer's queries and keys use", "positions per turn of the pair",
                       "share of the norm, mean of the heads' q and k"};
    picture.x_scale = svg::axis_scale::log2;
    std::printf("%-12s%-16s%8s%8s%8s%8s%8s%8s   q: < 64, > 256  k: < 64, > 256\n", "layer, head", "kind",
                "back", "weight", "without", "first", "without", "moved");
    for (std::size_t l = 0; l < seen.size(); ++l) {
        const auto p = analysis::make_head_patterns(rw::half_split{}, seen[l].q(), seen[l].k(), table);
        for (index h = 0; h < p.heads; ++h) {
            const auto head = static_cast<std::size_t>(h);
            const auto row = p.rotated.begin() + h * p.distances;
            const index at = std::max_element(row, row + p.distances) - row;
            std::printf("%zu, %-9td%-16s%8td%8.3f%8.3f%8.3f%8.3f%8.3f", l, h, kind_of(p, h).c_str(), at,
                        row[at], p.unrotated[static_cast<std::size_t>(h * p.distances + at)],
                        p.rotated_first[head], p.unrotated_first[head], p.moved[head]);
            for (const auto* usage : {&p.query_usage, &p.key_usage})
                std::printf("   %.3f %.3f", share_of(*usage, h, wavelengths, 0, trained / 4),
                            share_of(*usage, h, wavelengths, trained, HUGE_VAL));
            std::printf("\n");
        }
        picture.lines.push_back({"layer " + std::to_string(l), wavelengths, {}});
        for (std::size_t i = 0; i < wavelengths.size(); ++i) {
            double sum = 0;
            for (const auto* usage : {&p.query_usage, &p.key_usage})
                for (std::size_t at = i; at < usage->size(); at += wavelengths.size())
                    sum += (*usage)[at] / static_cast<double>(2 * usage->size() / wavelengths.size());
            picture.lines.back().y.push_back(sum);
        }
        chance = p.chance;
    }
    std::printf("any one key where all are equal: %.3f\n", chance);
    if (!file.empty()) svg::write(file, picture);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
