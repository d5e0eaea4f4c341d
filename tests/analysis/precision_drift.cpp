// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/analysis/precision_drift.hpp>

#include <random>

#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace drift = ropewalk::drift;
using drift::mode;

namespace {

constexpr rw::index channels = 64, vectors = 6;

std::vector<double> normal_bf16(rw::index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> draw;
    std::vector<double> x;
    for (rw::index i = 0; i < count; ++i)
        x.push_back(static_cast<double>(static_cast<float>(rw::bf16(draw(engine)))));
    return x;
}
std::vector<float> omega32() {
    const auto omega = rw::frequencies::geometric({.rotary_dim = channels}).omegas();
    return {omega.begin(), omega.end()};
}
const std::vector<double> shifts{0, 16, 256, 1000, 4096, 16384, 65536, 131072}, offsets{0, 1, 16, 128};

drift::shift_table table(mode m) {
    static const auto q = normal_bf16(vectors * channels, 1), k = normal_bf16(vectors * channels, 2);
    static const auto omega = omega32();
    return drift::make_shift_table(m, q, k, {omega}, shifts, offsets);
}

}  // namespace

TEST_CASE("drift: exact rotation and the library's kernels do not move with the shift", "[analysis][drift]") {
    for (double moved : table(mode::exact).max) CHECK(moved < 1e-12);
    // Tables from f64 angles and arithmetic in f32: flat at 4e-8, whatever the shift.
    const auto f32 = table(mode::kernel_f32).mean;
    for (std::size_t s = 1; s < shifts.size(); ++s) CHECK((f32[s] > 2e-8 && f32[s] < 8e-8));
    const auto stored = table(mode::kernel_bf16).mean;
    for (std::size_t s = 1; s < shifts.size(); ++s) CHECK((stored[s] > 1e-4 && stored[s] < 1e-2));
    CHECK(stored.back() < 3 * stored[1]);  // flat: storing in bf16 costs the same anywhere
}

TEST_CASE("drift: f32 angles and bf16 positions grow with the shift, a bf16 table is flat",
          "[analysis][drift]") {
    const auto f32 = table(mode::all_f32).mean, bf16 = table(mode::table_bf16).mean,
               positions = table(mode::pos_bf16).mean;
    CHECK(f32.back() > 100 * f32[1]);
    CHECK(positions[4] > 5 * positions[1]);
    for (std::size_t s = 1; s < shifts.size(); ++s) CHECK((bf16[s] > bf16[1] / 3 && bf16[s] < 3 * bf16[1]));
    for (std::size_t s = 1; s < shifts.size(); ++s) CHECK(positions[s] > bf16[s]);
}

TEST_CASE("drift: a bf16 table with bf16 arithmetic, one pair by hand", "[analysis][drift]") {
    // Position 1, omega 1: cos 1 = 0.5403 -> 0.5390625 (138 / 256), sin 1 = 0.84147 -> 0.83984375 (215 /
    // 256).
    const std::vector<float> one{1.f};
    const std::vector<double> x{1.5, -2.0};
    const double c = 0.5390625, s = 0.83984375;
    const auto b = [](double v) {
        return static_cast<double>(static_cast<float>(rw::bf16(static_cast<float>(v))));
    };
    for (const rw::pair_layout layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        const auto y = drift::rotated(mode::table_bf16, x, 1, {one, layout});
        CHECK(y[0] == b(b(1.5 * c) + b(2.0 * s)));
        CHECK(y[1] == b(b(-2.0 * c) + b(1.5 * s)));
    }
    // bf16 positions: 257 is not representable and becomes 256.
    CHECK(drift::rotated(mode::pos_bf16, x, 257, {one}) == drift::rotated(mode::pos_bf16, x, 256, {one}));
    CHECK(drift::rotated(mode::table_bf16, x, 257, {one}) != drift::rotated(mode::table_bf16, x, 256, {one}));
}

TEST_CASE("drift: a large first key makes the first column drift most", "[analysis][drift]") {
    auto q = normal_bf16(24 * channels, 3), k = normal_bf16(24 * channels, 4);
    for (rw::index c = 0; c < channels; ++c)
        k[static_cast<std::size_t>(c)] *= 8;  // a power of two stays bf16
    const auto omega = omega32();
    const auto t = drift::make_column_table(mode::table_bf16, q, k, {omega}, 0, 16);
    for (std::size_t j = 1; j < 24; ++j) CHECK(t.logits[0] > t.logits[j]);
    const auto exact = drift::make_column_table(mode::exact, q, k, {omega}, 0, 16);
    for (std::size_t j = 0; j < 24; ++j) CHECK((exact.logits[j] < 1e-12 && exact.weights[j] < 1e-12));
}

TEST_CASE("drift: names go both ways, and what does not fit is refused", "[analysis][drift][errors]") {
    for (mode m : drift::all_modes) CHECK(drift::mode_named(drift::name_of(m)) == m);
    const auto refusal = [](auto f) -> std::string {
        try {
            f();
        } catch (const rw::invalid_config& e) {
            return e.what();
        }
        return "";
    };
    const auto omega = omega32();
    const std::vector<double> x(63), y(64);
    CHECK(refusal([&] { drift::mode_named("bf8"); }) == "drift::mode_named: name must be a mode's, got bf8");
    CHECK(refusal([&] { drift::rotated(mode::exact, x, 1, {omega}); }) ==
          "drift::rotated: x must hold two channels a pair: wanted 64, got 63");
    for (double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL, 1e300}) {
        const std::vector<double> shifts_bad{0, bad};
        for (mode m : drift::all_modes)
            CHECK(refusal([&] {
                      drift::rotated(m, y, bad, {omega});
                  }).starts_with("drift::rotated: position must be finite and fit in f32, got"));
        CHECK_FALSE(refusal([&] {
                        drift::make_shift_table(mode::exact, y, y, {omega}, shifts_bad, offsets);
                    }).empty());
        CHECK_FALSE(refusal([&] {
                        drift::make_shift_table(mode::exact, y, y, {omega}, shifts, shifts_bad);
                    }).empty());
        CHECK_FALSE(refusal([&] { drift::make_column_table(mode::exact, y, y, {omega}, bad, 0); }).empty());
        CHECK_FALSE(refusal([&] { drift::make_column_table(mode::exact, y, y, {omega}, 0, bad); }).empty());
    }
    // What a NaN among the vectors does shows in mean and max.
    auto poisoned = y;
    poisoned[0] = std::nan("");
    const auto seen = drift::make_shift_table(mode::all_f32, poisoned, y, {omega}, shifts, offsets);
    CHECK((std::isnan(seen.mean[1]) && std::isnan(seen.max[1])));
    CHECK(refusal([&] { drift::make_shift_table(mode::exact, x, x, {omega}, shifts, offsets); }) ==
          "drift::make_shift_table: q must hold vectors * channels numbers, got 63");
    CHECK(refusal([&] { drift::make_column_table(mode::exact, y, x, {omega}, 0, 1); }) ==
          "drift::make_column_table: k must be as long as q: wanted 64, got 63");
}
