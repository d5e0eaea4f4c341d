// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tile_rows.hpp>

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::as;
using support::noise;
using support::worst;

TEST_CASE("tile rows: every element type reads and writes as it converts", "[attention][rows]") {
    for (rw::index n : {1, 15, 16, 37}) {
        const auto numbers = noise(n, 1);
        const auto check = [&](auto tag) {
            using E = decltype(tag);
            const auto stored = as<E>(numbers);
            std::vector<float> row(std::size_t(n + 1), 9), back(row);
            rw::detail::read_row(stored.data(), row.data(), n);
            std::vector<E> written(stored.size());
            rw::detail::write_row(row.data(), written.data(), n);
            CHECK(row.back() == 9);
            row.pop_back();
            CHECK(worst(row, as<float>(support::widened(stored))) == 0);
            CHECK(worst(written, as<E>(support::widened(as<float>(support::widened(stored))))) == 0);
        };
        check(0.0), check(0.f), check(rw::f16{}), check(rw::bf16{});
    }
}

TEST_CASE("tile rows: in place where they lie well, else a padded copy", "[attention][rows]") {
    const rw::index lanes = rw::simd::lanes<float>, channels = lanes + 1, width = 2 * lanes;
    const auto numbers = as<float>(noise(10 * 2 * channels, 1));
    const rw::heads_view<const float> x(numbers.data(), 10, 2, channels);
    std::vector<float> copy(std::size_t(10 * width), 9);
    const auto here = rw::detail::tile_rows<float>(x, 0, 1, 3, 4, false, copy.data());
    CHECK(here.data == x.at(0, 3, 1));
    CHECK(here.stride == 2 * channels);
    const auto padded = rw::detail::tile_rows<float>(x, 0, 1, 3, 4, true, copy.data());
    CHECK(padded.data == copy.data());
    for (rw::index j = 0; j < 4; ++j)
        for (rw::index c = 0; c < width; ++c)
            CHECK(copy[std::size_t(j * width + c)] == (c < channels ? x.at(0, 3 + j, 1)[c] : 0.f));
    CHECK(copy[std::size_t(4 * width)] == 9);
}

TEST_CASE("tile rows: one number that is not finite is found wherever it stands", "[attention][rows]") {
    const rw::index channels = 2 * rw::simd::lanes<double> + 3, rows = 3;
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
          -std::numeric_limits<double>::infinity()})
        for (rw::index at = -1; at < rows * channels; ++at) {
            auto x = noise(rows * channels, 1);
            const auto clean = x;
            if (at >= 0) x[std::size_t(at)] = bad;
            CHECK(rw::detail::all_finite<double>({x.data(), channels}, rows, channels) == (at < 0));
            std::vector<double> copy(std::size_t(rows * rw::detail::whole_packs<double>(channels)));
            const auto finite =
                rw::detail::finite_rows<double>({x.data(), channels}, rows, channels, copy.data());
            for (rw::index i = 0; i < rows * channels; ++i)
                CHECK(finite.data[i / channels * finite.stride + i % channels] ==
                      (i == at ? 0 : clean[std::size_t(i)]));
        }
}

TEST_CASE("workspace: pieces lie apart, on cache lines, within the counted bytes", "[attention][rows]") {
    rw::detail::workspace_cutter count;
    CHECK(count.cut<float>("cut", {5, 3}) == nullptr);
    CHECK(count.cut<double>("cut", {1}) == nullptr);
    CHECK(count.bytes() == 64 + 64 + 64);
    std::vector<std::byte> memory(std::size_t(count.bytes() + 1));
    for (std::size_t off : {0, 1}) {
        rw::detail::workspace_cutter cutter{std::span<std::byte>(memory).subspan(off)};
        auto* const first = reinterpret_cast<std::byte*>(cutter.cut<float>("cut", {5, 3}));
        auto* const second = reinterpret_cast<std::byte*>(cutter.cut<double>("cut", {1}));
        CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
        CHECK(second == first + 64);
        CHECK(first >= memory.data() + off);
        CHECK(second + sizeof(double) <= memory.data() + off + count.bytes());
    }
    CHECK(support::refusal([&] {
              count.cut<float>("cut", {support::huge(40), support::huge(40)});
          }).find("cut: the workspace must fit in memory") == 0);
}
