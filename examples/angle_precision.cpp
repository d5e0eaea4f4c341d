// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The cost of forming an angle in f32: the worst error of cos and sin against f64. angle_precision [FILE.svg]
#include <ropewalk/ropewalk.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "figures/svg.hpp"

namespace rw = ropewalk;

namespace {

/// The worst error of the 64 cos and sin of one row.
template <class Cos, class Sin>
double worst(const rw::rotation_table<double>& exact, rw::index row, Cos cos, Sin sin) {
    double error = 0;
    for (std::size_t i = 0; i < 64; ++i)
        error = std::max({error, std::abs(double(cos(i)) - exact.cos_row(row)[i]),
                          std::abs(double(sin(i)) - exact.sin_row(row)[i])});
    return error;
}

}  // namespace

int main(int argc, char** argv) {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 128, .base = 1e4});
    std::vector<svg::series> lines{{"table, exact", {}, {}},
                                   {"on the fly", {}, {}},
                                   {"float32 product (HF)", {}, {}},
                                   {"running product (ggml)", {}, {}}};
    std::printf("worst error of cos and sin, 64 pairs, base 10000, 50 positions up to each\n%10s",
                "position");
    for (const auto& line : lines) std::printf("  %30s", line.name.c_str());
    std::printf("\n");
    for (std::int32_t last : {100, 1000, 5000, 32767, 131071, 1000003, 10000000}) {
        std::vector<std::int32_t> positions;
        for (std::int32_t p = last - 49; p <= last; ++p) positions.push_back(p);
        const auto where = rw::position_ids::from(positions);
        const auto exact = rw::make_rotation_table<double>(rope, where);
        const auto table = rw::make_rotation_table(rope, where);
        const auto product = rw::make_rotation_table(rope, where, rw::angle_arithmetic::float32_product);
        const auto running = rw::ggml::make_table({.n_dims = 128}, positions);
        std::vector<float> fly(positions.size() * 128, 0.0f);  // rotating (1, 0) gives (cos, sin)
        for (std::size_t at = 0; at < fly.size(); at += 2) fly[at] = 1.0f;
        rw::rotate(rw::interleaved{}, rw::heads_view(fly.data(), 50, 1, 128),
                   rw::rows_on_the_fly(rope, positions));
        double errors[4] = {};
        for (rw::index n = 0; n < 50; ++n) {
            const float* rotated = fly.data() + n * 128;
            const auto of_table = [&](const auto& t) {
                return worst(
                    exact, n, [&](auto i) { return t.cos_row(n)[i]; },
                    [&](auto i) { return t.sin_row(n)[i]; });
            };
            const double row[] = {of_table(table),
                                  worst(
                                      exact, n, [&](auto i) { return rotated[2 * i]; },
                                      [&](auto i) { return rotated[2 * i + 1]; }),
                                  of_table(product), of_table(running)};
            for (int k = 0; k < 4; ++k) errors[k] = std::max(errors[k], row[k]);
        }
        std::printf("%10d", last);
        for (std::size_t k = 0; k < lines.size(); ++k) {
            lines[k].x.push_back(last);
            lines[k].y.push_back(errors[k]);
            std::printf("  %30.1e", errors[k]);
        }
        std::printf("\n");
    }
    constexpr auto log10 = svg::axis_scale::log10;
    const svg::chart picture{
        "Error of cos and sin against position", "position", "worst error", lines, log10, log10};
    if (argc > 1) svg::write(argv[1], picture);
    return lines[0].y.back() < 6e-8 && lines[1].y.back() < 2e-7 ? 0 : 1;
}
