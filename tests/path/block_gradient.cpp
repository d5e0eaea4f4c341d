// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/block_gradient.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace {

using namespace support;
using block = rw::detail::path_block<double>;

/// A block on memory of its own.
struct owned {
    std::vector<std::byte> memory;
    block now;

    owned(rw::index most, rw::index channels) : memory(1 << 20), now(make(memory, most, channels)) {}
    static block make(std::vector<std::byte>& memory, rw::index most, rw::index channels) {
        rw::detail::workspace_cutter cutter{std::span(memory)};
        return block("test", cutter, most, channels);
    }
    void load(const std::vector<double>& w, const std::vector<double>& k, const std::vector<double>& beta) {
        const rw::index d = now.channels;
        for (std::size_t n = 0; n < beta.size(); ++n) {
            const auto row = static_cast<rw::index>(n);
            std::fill_n(now.w + row * now.wide, now.wide, 0.0);
            std::fill_n(now.k + row * now.wide, now.wide, 0.0);
            std::copy_n(w.data() + row * d, d, now.w + row * now.wide);
            std::copy_n(k.data() + row * d, d, now.k + row * now.wide);
            now.beta[row] = beta[n];
        }
        now.make(static_cast<rw::index>(beta.size()));
    }
};

/// x <- H_t x, one after the other.
void step(std::vector<double>& x, const double* w, double beta) {
    double along = 0;
    for (std::size_t c = 0; c < x.size(); ++c) along += x[c] * w[c];
    for (std::size_t c = 0; c < x.size(); ++c) x[c] -= beta * along * w[c];
}

}  // namespace

TEST_CASE("path block: its product and its keys are those of one transform after the other",
          "[path][gradient]") {
    for (rw::index tokens : {1, 2, 5, 9})
        for (rw::index d : {1, 3, 8, 11}) {
            const auto w = unit_rows(tokens, d, 1), k = noise(tokens * d, 2),
                       beta = noise(tokens, 3, {.centre = 1});
            owned x(9, d);
            x.load(w, k, beta);
            std::vector<double> p(static_cast<std::size_t>(d * x.now.wide)), turned(p.size()),
                keys(static_cast<std::size_t>(tokens * x.now.wide));
            x.now.fill_product(p.data(), false);
            x.now.fill_product(turned.data(), true);
            x.now.fill_keys_at_end(keys.data());
            for (rw::index i = 0; i < d; ++i) {
                std::vector<double> unit(static_cast<std::size_t>(d));
                unit[static_cast<std::size_t>(i)] = 1;
                for (rw::index t = 0; t < tokens; ++t)
                    step(unit, w.data() + t * d, beta[static_cast<std::size_t>(t)]);
                for (rw::index c = 0; c < d; ++c) {
                    // Column i of the product of all; rows of queries are multiplied from the right.
                    CHECK(p[static_cast<std::size_t>(c * x.now.wide + i)] ==
                          Approx(unit[static_cast<std::size_t>(c)]).margin(1e-14));
                    CHECK(turned[static_cast<std::size_t>(i * x.now.wide + c)] ==
                          p[static_cast<std::size_t>(c * x.now.wide + i)]);
                }
            }
            for (rw::index s = 0; s < tokens; ++s) {
                std::vector<double> key(k.begin() + s * d, k.begin() + (s + 1) * d);
                for (rw::index t = s + 1; t < tokens; ++t)
                    step(key, w.data() + t * d, beta[static_cast<std::size_t>(t)]);
                for (rw::index c = 0; c < d; ++c)
                    CHECK(keys[static_cast<std::size_t>(s * x.now.wide + c)] ==
                          Approx(key[static_cast<std::size_t>(c)]).margin(1e-14));
            }
        }
}

TEST_CASE("path block: gradients of a sum over its product and its keys are central differences",
          "[path][gradient]") {
    constexpr rw::index tokens = 6, d = 5;
    auto w = unit_rows(tokens, d, 1), k = noise(tokens * d, 2),
         beta = noise(tokens, 3, {.centre = 1, .width = 0.9});
    const auto by_product = noise(d * d, 4), by_keys = noise(tokens * d, 5);
    owned x(tokens, d);
    const auto padded = [&](const std::vector<double>& from, rw::index rows) {
        std::vector<double> to(static_cast<std::size_t>(rows * x.now.wide));
        for (rw::index r = 0; r < rows; ++r) std::copy_n(from.data() + r * d, d, to.data() + r * x.now.wide);
        return to;
    };
    const auto loss = [&] {
        x.load(w, k, beta);
        std::vector<double> p(static_cast<std::size_t>(d * x.now.wide)),
            keys(static_cast<std::size_t>(tokens * x.now.wide));
        x.now.fill_product(p.data(), false);
        x.now.fill_keys_at_end(keys.data());
        double sum = 0;
        for (rw::index r = 0; r < d; ++r)
            for (rw::index c = 0; c < d; ++c)
                sum += p[static_cast<std::size_t>(r * x.now.wide + c)] *
                       by_product[static_cast<std::size_t>(r * d + c)];
        for (rw::index r = 0; r < tokens; ++r)
            for (rw::index c = 0; c < d; ++c)
                sum += keys[static_cast<std::size_t>(r * x.now.wide + c)] *
                       by_keys[static_cast<std::size_t>(r * d + c)];
        return sum;
    };
    x.load(w, k, beta);
    x.now.clear_gradients();
    x.now.make_gradients(padded(by_product, d).data(), padded(by_keys, tokens).data());
    const std::vector<double> dw(x.now.dw, x.now.dw + tokens * x.now.wide),
        dk(x.now.dk, x.now.dk + tokens * x.now.wide), d_beta(x.now.d_beta, x.now.d_beta + tokens);
    const auto slope = [&](double& number) {
        const double at = number, h = 1e-5;
        number = at + h;
        const double above = loss();
        number = at - h;
        const double below = loss();
        number = at;
        return (above - below) / (2 * h);
    };
    for (rw::index n = 0; n < tokens; ++n) {
        CHECK(slope(beta[static_cast<std::size_t>(n)]) ==
              Approx(d_beta[static_cast<std::size_t>(n)]).margin(1e-8));
        for (rw::index c = 0; c < d; ++c) {
            const auto at = static_cast<std::size_t>(n * d + c),
                       wide = static_cast<std::size_t>(n * x.now.wide + c);
            CHECK(slope(w[at]) == Approx(dw[wide]).margin(1e-8));
            CHECK(slope(k[at]) == Approx(dk[wide]).margin(1e-8));
        }
    }
}
