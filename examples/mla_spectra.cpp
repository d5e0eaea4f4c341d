// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Spectra of the tiny checkpoint's attention weights compared with the Marchenko-Pastur law of noise: of W_Q
// W_K^T of every head, and of W_Q and W_K alone, which, unlike their product, follow the law when untrained.
// Gaussian noise of the same shape is shown beside them.
//     mla_spectra [--svg FILE]
#include <algorithm>
#include <random>

#include <ropewalk/analysis/marchenko_pastur.hpp>

#include "figures/svg.hpp"
#include "tinylm/model.hpp"

namespace tinylm {

void print(const std::string& name, const rw::spectral_report& r) {
    std::printf("%-14s%8td%9.3f%9.3f%9.2f%10.2f%9.2f\n", name.c_str(), r.spikes, r.spike_energy, r.soft_rank,
                r.stable_rank, r.effective_rank, r.participation_ratio);
}

/// Eigenvalues divided by the variance of the law, in bins of a quarter octave.
struct histogram {
    std::vector<double> bins = std::vector<double>(48);  // from 2^-4 to 2^8
    double count = 0;
    void add(const std::string& name, const rw::spectral_report& r) {
        print(name, r);
        for (double v : r.eigenvalues)
            bins[static_cast<std::size_t>(std::clamp(4 * (std::log2(v / r.law.sigma2) + 4), 0.0, 47.0))] += 1;
        count += static_cast<double>(r.eigenvalues.size());
    }
    svg::series stairs(const std::string& name) const {
        svg::series s{name, {}, {}};
        for (std::size_t i = 0; i < bins.size(); ++i)
            for (std::size_t edge : {i, i + 1}) {
                s.x.push_back(std::exp2(static_cast<double>(edge) / 4 - 4));
                s.y.push_back(bins[i] / count);
            }
        return s;
    }
};

void run(const std::string& file) {
    const model m = load_model("data/tinylm");

    // Reports of every head: of the product, of W_Q and W_K, and of noise of the same shape.
    std::printf("%-14s%8s%9s%9s%9s%10s%9s\n", "layer, head", "spikes", "energy", "soft", "stable",
                "effective", "partic.");
    std::mt19937 engine(1);
    std::normal_distribution<double> normal;
    histogram queries, keys, noise;
    for (index l = 0; l < m.layers; ++l) {
        const auto& w = m.layer[static_cast<std::size_t>(l)];
        for (index h = 0; h < m.heads; ++h) {
            const index kv = h / (m.heads / m.kv_heads);
            const Eigen::MatrixXd q = w.q.middleRows(h * m.head_dim, m.head_dim).transpose().cast<double>();
            const Eigen::MatrixXd k = w.k.middleRows(kv * m.head_dim, m.head_dim).transpose().cast<double>();
            const Eigen::MatrixXd random =
                Eigen::MatrixXd::NullaryExpr(m.hidden, m.head_dim, [&] { return normal(engine); });
            const std::string name = std::to_string(l) + ", " + std::to_string(h);
            print(name + " QK^T", rw::make_product_report(q, k));
            queries.add(name + " Q", rw::make_spectral_report(q, rw::variance_estimate::trimmed));
            keys.add(name + " K", rw::make_spectral_report(k, rw::variance_estimate::trimmed));
            noise.add(name + " noise", rw::make_spectral_report(random, rw::variance_estimate::trimmed));
        }
    }

    // The figure: histograms over all heads beside the density of the law per quarter octave.
    const auto law =
        rw::make_marchenko_pastur(1, static_cast<double>(m.head_dim) / static_cast<double>(m.hidden));
    svg::chart picture{"W_Q and W_K of every head against the Marchenko-Pastur law",
                       "eigenvalue / trimmed variance", "share in a quarter octave"};
    picture.x_scale = svg::axis_scale::log2;
    picture.lines = {
        queries.stairs("W_Q"), keys.stairs("W_K"), noise.stairs("noise of that shape"), {"law", {}, {}}};
    for (double x = 1.0 / 16; x < 256; x *= std::exp2(1.0 / 32)) {
        picture.lines[3].x.push_back(x);
        picture.lines[3].y.push_back(law.density(x) * x * std::log(2.0) / 4);
    }
    if (!file.empty()) svg::write(file, picture);
}

}  // namespace tinylm

int main(int count, char** text) { return svg::run_main(count, text, tinylm::run); }
