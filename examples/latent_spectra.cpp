// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Three small trainings that differ only in attention: plain heads, keys compressed after the rotation
// (MLA-PreRoPE), and compressed content with a shared rotary part (decoupled MLA). It follows the spectrum of
// W_Q W_K^T of every head from the first step to the last: does it collapse, and does the decoupled form
// prevent that?
//     latent_spectra [--svg FILE]
#include <map>

#include <ropewalk/analysis/marchenko_pastur.hpp>

#include "figures/svg.hpp"
#include "tinylm/snapshots.hpp"

namespace tinylm {

void run(const std::string& picture) {
    const std::filesystem::path folder = "data/mla_snapshots";
    std::map<std::string, rw::safetensors> files;
    for (const char* name : {"mha", "prerope", "decoupled"}) {
        const auto file = (folder / (std::string(name) + ".safetensors")).string();
        files.emplace(name, rw::read_safetensors_file(file));
    }
    svg::chart chart{"Stable rank of W_Q W_K^T, mean of all heads", "training step", "stable rank"};
    chart.lines = {{"plain heads", {}, {}},
                   {"PreRoPE", {}, {}},
                   {"decoupled, content", {}, {}},
                   {"decoupled, whole", {}, {}}};
    std::printf("stable rank | effective rank | share of the sum in spikes, means of all heads\n%6s", "step");
    for (const auto& line : chart.lines) std::printf("  %-22s", line.name.c_str());
    for (const int step : {0, 75, 300, 1500}) {
        std::printf("\n%6d", step);
        for (std::size_t form = 0; form < 4; ++form) {
            double stable = 0, effective = 0, spikes = 0, count = 0;
            for (const int layer : {0, 3})
                for (index h = 0; h < snapshots::heads; ++h, ++count) {
                    char prefix[32];
                    std::snprintf(prefix, sizeof prefix, "step%05d.layer%d.", step, layer);
                    const snapshots::snapshot s{files.at(form == 0   ? "mha"
                                                         : form == 1 ? "prerope"
                                                                     : "decoupled"),
                                                prefix};
                    const rw::score_factors f = form < 2 ? snapshots::plain_head(s, h, form == 1)
                                                         : snapshots::decoupled_head(s, h, form == 3);
                    const auto r = rw::make_product_report(f.q, f.k);
                    stable += r.stable_rank, effective += r.effective_rank, spikes += r.spike_energy;
                }
            chart.lines[form].x.push_back(step);
            chart.lines[form].y.push_back(stable / count);
            std::printf("  %6.2f %6.2f %7.3f ", stable / count, effective / count, spikes / count);
        }
    }
    std::printf("\n");
    if (!picture.empty()) svg::write(picture, chart);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
