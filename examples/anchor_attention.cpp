// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Documents packed into one training sequence: each attends to itself and to a shared anchor at position 0.
// The last document stays the same while the others are exchanged. How much does its attention output change,
// with the anchor mask and under plain causal attention, and what does each mask cost?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace {

namespace rw = ropewalk;
namespace attention = rw::attention;
constexpr rw::index documents = 8, length = 128, channels = 64;

/// Queries and keys of a token id: the same at every position.
std::vector<float> vectors_of(const std::vector<std::int64_t>& ids, unsigned seed) {
    std::vector<float> x;
    for (const std::int64_t id : ids) {
        std::mt19937 engine(seed + static_cast<unsigned>(id));
        std::normal_distribution<float> draw;
        for (rw::index c = 0; c < channels; ++c) x.push_back(draw(engine));
    }
    return x;
}

/// Eight documents: the last is always the same, the others depend on `others`.
attention::anchor_pack pack_of(int others) {
    std::vector<std::int64_t> ids;
    std::vector<rw::index> ends;
    for (rw::index d = 0; d < documents; ++d) {
        const std::int64_t first = d + 1 == documents ? 1000 : 10000 * others + 1000 * (d + 2);
        for (rw::index i = 0; i < length; ++i) ids.push_back(first + i);
        ends.push_back(static_cast<rw::index>(ids.size()));
    }
    for (std::int64_t id : {5, 6, 7}) ids.push_back(id);  // the last label, cut from a document of three
    ends.push_back(static_cast<rw::index>(ids.size()));
    return attention::make_anchor_pack(ids, ends, {.tokens = documents * length + 1});
}

/// Attention outputs of the last document.
std::vector<float> outputs(const attention::anchor_pack& pack, const attention::anchor_mask& mask) {
    auto q = vectors_of(pack.input_ids, 1), k = vectors_of(pack.input_ids, 2),
         v = vectors_of(pack.input_ids, 3);
    std::vector<float> out(v.size());
    const rw::index tokens = mask.tokens();
    const auto view = [&](std::vector<float>& x) {
        return rw::heads_view<float>(x.data(), tokens, 1, channels);
    };
    const std::vector<std::int64_t> positions(pack.positions.begin(), pack.positions.end());
    rw::rotate(rw::half_split{}, view(q), view(k),
               rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = channels}),
                                       rw::position_ids::from(positions)));
    attention::attend_anchored(mask, view(q), view(k), view(v), view(out));
    return {out.end() - length * channels, out.end()};
}
double apart(const std::vector<float>& a, const std::vector<float>& b) {
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max<double>(worst, std::abs(a[i] - b[i]));
    return worst;
}

}  // namespace

int main() {
    const auto one = pack_of(1), other = pack_of(2);
    auto causal = one.mask;
    std::fill(causal.document_start.begin(), causal.document_start.end(), 0);
    const double anchored = apart(outputs(one, one.mask), outputs(other, other.mask));
    const double mixed = apart(outputs(one, causal), outputs(other, causal));
    std::printf("other documents exchanged: %.1e with the anchor, %.1e causal\n", anchored, mixed);
    std::printf("scores: %td with the anchor, %td causal\n", one.mask.seen_count(), causal.seen_count());
    return anchored == 0 && mixed > 0.1 ? 0 : 1;
}
