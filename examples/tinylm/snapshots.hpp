// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Query and key matrices of three small trainings over time (data/mla_snapshots): byte-level language models
// on the King James text, alike but for attention, 4 layers, hidden 96, 4 heads of 24, 1500 steps; the first
// and the last layer at four steps.

#include <array>
#include <string>
#include <vector>

#include <ropewalk/compression/latent_weights.hpp>

#include "tinylm/model.hpp"

namespace tinylm {

namespace snapshots {

constexpr index hidden = 96, heads = 4, head_dim = 24, latent = 32, rope = 12;
using matrix = rw::latent_weights<float>::matrix;

/// One layer of one training at one step.
struct snapshot {
    const rw::safetensors& file;
    std::string prefix;
    matrix load(const char* name, index rows, index columns) const {
        const std::array<index, 2> shape{rows, columns};
        return Eigen::Map<const matrix>(file.numbers<float>(prefix + name, shape).data(), rows, columns);
    }
};

using factors = rw::score_factors;

factors plain_head(const snapshot& s, index h, bool compressed) {
    const matrix k = s.load("k", hidden, hidden);
    const matrix all =
        compressed ? matrix(s.load("up", hidden, latent) * s.load("down", latent, hidden) * k) : k;
    const auto rows = [h](const matrix& m) -> Eigen::MatrixXd {
        return m.middleRows(h * head_dim, head_dim).transpose().cast<double>();
    };
    return {rows(s.load("q", hidden, hidden)), rows(all)};
}

/// The content of a decoupled head, and with `whole` its rotary part beside it: the score at distance 0.
factors decoupled_head(const snapshot& s, index h, bool whole) {
    const rw::mla::config c{.hidden = hidden,
                            .heads = heads,
                            .query_rank = 0,
                            .latent = latent,
                            .nope_dim = head_dim,
                            .rope_dim = rope,
                            .value_dim = 0};
    rw::latent_weights<float> w{.key_norm = std::vector<float>(latent, 1.f)};
    w.wq.resize(heads * (head_dim + rope), hidden);
    const matrix q = s.load("q", hidden, hidden), rotated = s.load("qr", heads * rope, hidden);
    for (index i = 0; i < heads; ++i)
        w.wq.middleRows(i * (head_dim + rope), head_dim + rope) << q.middleRows(i * head_dim, head_dim),
            rotated.middleRows(i * rope, rope);
    w.wkv_a.resize(latent + rope, hidden);
    w.wkv_a << s.load("down", latent, hidden), s.load("kr", rope, hidden);
    w.wkv_b = s.load("up", hidden, latent);
    factors content = rw::make_content_factors(c, w, h);
    if (!whole) return content;
    const factors rotary = rw::make_rotary_factors(c, w, h);
    factors both{Eigen::MatrixXd(hidden, head_dim + rope), Eigen::MatrixXd(hidden, head_dim + rope)};
    both.q << content.q, rotary.q;
    both.k << content.k, rotary.k;
    return both;
}

}  // namespace snapshots
}  // namespace tinylm
