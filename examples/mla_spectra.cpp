// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Spectra of the tiny checkpoint's attention weights beside the Marchenko-Pastur law of noise: of W_Q W_K^T
// of every head, and of W_Q and W_K alone, which unlike their product follow the law when untrained.
//     mla_spectra [--svg FILE]    the histogram of all W_Q^h eigenvalues against the law
#include <cstdio>

#include <ropewalk/analysis/marchenko_pastur.hpp>

#include "figures/svg.hpp"
#include "tinylm/model.hpp"

namespace tinylm {
namespace {

void print(const std::string& name, const rw::spectral_report& r) {
    std::printf("%-14s%8td%9.3f%9.3f%9.2f%10.2f%9.2f\n", name.c_str(), r.spikes, r.spike_energy, r.soft_rank,
                r.stable_rank, r.effective_rank, r.participation_ratio);
}

int run(const std::string& file) {
    const model m = load_model("data/tinylm");
    std::printf("%-14s%8s%9s%9s%9s%10s%9s\n", "layer, head", "spikes", "energy", "soft", "stable",
                "effective", "partic.");
    std::vector<double> scaled;  // eigenvalues over the variance of their head
    rw::marchenko_pastur law;
    for (index l = 0; l < m.layers; ++l) {
        const auto& w = m.layer[static_cast<std::size_t>(l)];
        for (index h = 0; h < m.heads; ++h) {
            const index kv = h / (m.heads / m.kv_heads);
            const Eigen::MatrixXd q = w.q.middleRows(h * m.head_dim, m.head_dim).transpose().cast<double>();
            const Eigen::MatrixXd k = w.k.middleRows(kv * m.head_dim, m.head_dim).transpose().cast<double>();
            const std::string name = std::to_string(l) + ", " + std::to_string(h);
            print(name + " QK^T", rw::make_product_report(q, k));
            const auto alone = rw::make_spectral_report(q, rw::variance_estimate::trimmed);
            print(name + " Q", alone);
            print(name + " K", rw::make_spectral_report(k, rw::variance_estimate::trimmed));
            for (double v : alone.eigenvalues) scaled.push_back(v / alone.law.sigma2);
            law = rw::make_marchenko_pastur(1, alone.law.gamma);
        }
    }
    if (file.empty()) return 0;
    svg::chart picture{"W_Q of every head against the Marchenko-Pastur law",
                       "eigenvalue over trimmed variance", "density"};
    picture.lines = {{"tiny checkpoint", {}, {}}, {"law of noise", {}, {}}};
    const double width = law.upper / 16, end = 3 * law.upper;
    for (double x = 0; x < end; x += width) {
        double inside = 0;
        for (double v : scaled) inside += v >= x && v < x + width ? 1 : 0;
        for (const double edge : {x, x + width}) {  // a stair
            picture.lines[0].x.push_back(edge);
            picture.lines[0].y.push_back(inside / width / static_cast<double>(scaled.size()));
        }
    }
    for (double x = 0; x < end; x += width / 8) {
        picture.lines[1].x.push_back(x);
        picture.lines[1].y.push_back(law.density(x));
    }
    svg::write(file, picture);
    return 0;
}

}  // namespace
}  // namespace tinylm

int main(int count, char** text) {
    try {
        const bool drawn = count == 3 && std::string(text[1]) == "--svg";
        if (count != 1 && !drawn) throw std::invalid_argument("usage: mla_spectra [--svg FILE]");
        return tinylm::run(drawn ? text[2] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "mla_spectra: %s\n", error.what());
        return 1;
    }
}
