// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The attention of a vision transformer with axial and with mixed RoPE at two resolutions: a 14 x 14 image,
// then the same patches inside a 24 x 24 image. Nothing is resized and no weight changes; only the positions
// of the patches do.

#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 6, head_dim = 64, side = 14, large = 24, row = 7, column = 5;
constexpr rw::index patches = side * side, size = patches * heads * head_dim;

struct block {
    std::vector<float> q, k, v;
    block() : q(size), k(size), v(size) {
        std::mt19937 engine(1);
        std::normal_distribution<float> normal;
        for (auto* x : {&q, &k, &v})
            for (float& value : *x) value = normal(engine);
    }
    static rw::heads_view<float> view(std::vector<float>& x) { return {x.data(), patches, heads, head_dim}; }

    template <class Table>
    std::vector<float> run(const rw::rotary_scheme& rope, const Table& table) {
        auto rotated_q = q, rotated_k = k;
        rw::rotate(rope.read_layout, view(rotated_q), view(rotated_k), table);
        std::vector<float> out(size);
        rw::attend(view(rotated_q), view(rotated_k), view(v), view(out));
        return out;
    }
};

double worst(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    return most;
}

}  // namespace

int main() {
    std::mt19937 engine(7);
    const auto start = rw::frequencies::make_mixed_start({.head_dim = head_dim}, heads, engine);
    // Token numbers of the 14 x 14 patches in the large image, row-major.
    std::vector<int> inside;
    for (rw::index r = 0; r < side; ++r)
        for (rw::index c = 0; c < side; ++c)
            inside.push_back(static_cast<int>((row + r) * large + column + c));
    const auto small_image = rw::rope_vit::patches({.height = side, .width = side, .class_tokens = 0});
    const auto large_image = rw::rope_vit::patches({.height = large, .width = large, .class_tokens = 0});

    block attention;
    bool holds = true;
    for (const auto& rope : {rw::rope_vit::axial({.head_dim = head_dim}),
                             rw::rope_vit::mixed({.heads = heads, .head_dim = head_dim}, start)}) {
        const auto omega = rope.spectrum_for(1);
        const auto factored = rw::make_factored_table(omega, small_image);
        const auto whole = rw::make_rotation_table(omega, large_image);
        const auto at_14 = attention.run(rope, factored);
        const auto at_24 = attention.run(rope, whole.rows(std::span<const int>(inside)));
        const double moved = worst(at_14, at_24);
        holds = holds && moved < 1e-5;
        std::printf("%-16s moved by (%td, %td) into %td x %td: outputs differ by %.1e at most\n",
                    rope.name.c_str(), row, column, large, large, moved);
        std::printf(
            "%-16s %td x %td: %td rows a head of cos and sin, %zu bytes in all; a full table has %td\n", "",
            side, side, factored.row_count(), factored.byte_count(),
            rw::make_rotation_table(omega, small_image).row_count());
    }
    return holds ? 0 : 1;
}
