// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/compression/rope_folding.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace {

row_major matrix(rw::index rows, rw::index columns, unsigned seed) {
    const auto x = support::noise(rows * columns, seed);
    return Eigen::Map<const row_major>(x.data(), rows, columns);
}
/// Keys whose components differ in energy, so that eigenvalues lie apart.
row_major keys_of(rw::index tokens, rw::index channels, unsigned seed) {
    row_major x = matrix(tokens, channels, seed) * matrix(channels, channels, seed + 1);
    for (rw::index c = 0; c < channels; ++c) x.col(c) *= 1 + 0.2 * static_cast<double>(c % 7);
    return x;
}

using square = std::vector<std::vector<long double>>;

/// Eigenvectors as columns and eigenvalues of a symmetric matrix, by Jacobi's rotations in long double,
/// descending, the largest entry of a vector positive.
std::pair<square, std::vector<long double>> eigen(square a) {
    const std::size_t n = a.size();
    square u(n, std::vector<long double>(n));
    for (std::size_t i = 0; i < n; ++i) u[i][i] = 1;
    for (int sweep = 0; sweep < 60; ++sweep)
        for (std::size_t p = 0; p < n; ++p)
            for (std::size_t q = p + 1; q < n; ++q) {
                if (a[p][q] == 0) continue;
                const long double angle = 0.5L * std::atan2(2 * a[p][q], a[q][q] - a[p][p]);
                const long double c = std::cos(angle), s = std::sin(angle);
                for (std::size_t k = 0; k < n; ++k) {
                    const long double x = a[k][p], y = a[k][q];
                    a[k][p] = c * x - s * y, a[k][q] = s * x + c * y;
                }
                for (std::size_t k = 0; k < n; ++k) {
                    const long double x = a[p][k], y = a[q][k];
                    a[p][k] = c * x - s * y, a[q][k] = s * x + c * y;
                }
                for (std::size_t k = 0; k < n; ++k) {
                    const long double x = u[k][p], y = u[k][q];
                    u[k][p] = c * x - s * y, u[k][q] = s * x + c * y;
                }
            }
    std::vector<std::size_t> order(n);
    for (std::size_t i = 0; i < n; ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return a[i][i] > a[j][j]; });
    square sorted = u;
    std::vector<long double> values;
    for (std::size_t to = 0; to < n; ++to) {
        std::size_t largest = 0;
        for (std::size_t k = 0; k < n; ++k)
            if (std::abs(u[k][order[to]]) > std::abs(u[largest][order[to]])) largest = k;
        for (std::size_t k = 0; k < n; ++k)
            sorted[k][to] = u[largest][order[to]] < 0 ? -u[k][order[to]] : u[k][order[to]];
        values.push_back(a[order[to]][order[to]]);
    }
    return {sorted, values};
}

/// q . k of every query head over the latent channels, the first `rotating` virtual heads rotated by plain
/// loops; both positions shifted.
std::vector<double> latent_scores(const rope_folding& fold, const spectrum& omega, const row_major& keys,
                                  const row_major& queries, rw::index query_heads, rw::index rotating,
                                  double shift) {
    const rw::index d = fold.config.head_dim, w = fold.virtual_dim();
    const row_major latent = keys * fold.map.transpose();
    const auto rotated = [&](Eigen::VectorXd x, double position) {
        for (rw::index v = 0; v < rotating; ++v)
            for (rw::index j = 0; j < w / 2; ++j) {
                const long double a = (long double)position * omega.omega(j * fold.config.collapse);
                const long double c = std::cos(a), s = std::sin(a);
                const long double first = x[v * w + 2 * j], second = x[v * w + 2 * j + 1];
                x[v * w + 2 * j] = static_cast<double>(first * c - second * s);
                x[v * w + 2 * j + 1] = static_cast<double>(first * s + second * c);
            }
        return x;
    };
    std::vector<double> scores;
    for (rw::index i = 0; i < queries.rows(); ++i)
        for (rw::index h = 0; h < query_heads; ++h) {
            const Eigen::VectorXd q =
                fold.query_map(h, query_heads) * queries.row(i).segment(h * d, d).transpose();
            for (rw::index n = 0; n < keys.rows(); ++n)
                scores.push_back(
                    rotated(q, shift + 3.0 * static_cast<double>(i))
                        .dot(rotated(latent.row(n).transpose(), shift + static_cast<double>(n * n))));
        }
    return scores;
}
/// The same of the keys as they are.
std::vector<double> plain_scores(const rope_folding_config& c, const spectrum& omega, const row_major& keys,
                                 const row_major& queries, rw::index query_heads) {
    const rw::index d = c.head_dim, pairs = d / 2;
    std::vector<double> scores;
    for (rw::index i = 0; i < queries.rows(); ++i)
        for (rw::index h = 0; h < query_heads; ++h)
            for (rw::index n = 0; n < keys.rows(); ++n) {
                const rw::index kv = h / (query_heads / c.heads);
                long double sum = 0;
                for (rw::index j = 0; j < pairs; ++j) {
                    const rw::index x = c.layout.first(j, pairs), y = c.layout.second(j, pairs);
                    const long double a = (3.0L * i - (long double)(n * n)) * omega.omega(j);
                    const long double qx = queries(i, h * d + x), qy = queries(i, h * d + y);
                    const long double kx = keys(n, kv * d + x), ky = keys(n, kv * d + y);
                    sum += (qx * kx + qy * ky) * std::cos(a) + (qx * ky - qy * kx) * std::sin(a);
                }
                scores.push_back(static_cast<double>(sum));
            }
    return scores;
}

}  // namespace

TEST_CASE("rope_folding: mixing is the eigenbasis of a group, as plain loops and Jacobi's rotations find it",
          "[compression][rope_folding]") {
    struct sizes {
        rw::index heads, d, fold, collapse;
        pair_layout layout;
    };
    for (const sizes& s :
         {sizes{2, 8, 1, 1, half_split{}}, sizes{3, 8, 2, 1, interleaved{}}, sizes{2, 16, 4, 2, half_split{}},
          sizes{1, 12, 6, 3, interleaved{}}, sizes{1, 2, 1, 1, half_split{}}}) {
        const rw::index heads = s.heads, d = s.d, fold = s.fold, collapse = s.collapse;
        const pair_layout layout = s.layout;
        CAPTURE(heads, d, fold, collapse);
        const rw::index tokens = 40, pairs = d / 2, members = fold / collapse, count = heads * fold;
        const auto keys = keys_of(tokens, heads * d, 11);
        const auto made = make_rope_folding(
            {.heads = heads, .head_dim = d, .fold = fold, .collapse = collapse, .layout = layout}, keys);
        REQUIRE(made.groups() == pairs / fold);
        REQUIRE(made.components() == count);
        CHECK(made.virtual_heads() * made.virtual_dim() == heads * d);
        double trace = 0, first = 0, damping = 0;
        for (rw::index g = 0; g < made.groups(); ++g) {
            const auto channel = [&](rw::index part, rw::index shared, rw::index head, rw::index m) {
                const rw::index i = g * fold + m * collapse + shared;
                return head * d + (part == 0 ? layout.first(i, pairs) : layout.second(i, pairs));
            };
            std::vector<rw::index> at[2];
            for (const rw::index part : {0, 1})
                for (rw::index shared = 0; shared < collapse; ++shared)
                    for (rw::index h = 0; h < heads; ++h)
                        for (rw::index m = 0; m < members; ++m)
                            at[part].push_back(channel(part, shared, h, m));
            const auto size = static_cast<std::size_t>(count);
            square energy(size, std::vector<long double>(size));
            long double mean = 0;
            for (std::size_t a = 0; a < size; ++a)
                for (std::size_t b = 0; b < size; ++b)
                    for (const auto& of : at)
                        for (rw::index n = 0; n < tokens; ++n)
                            energy[a][b] += (long double)keys(n, of[a]) * keys(n, of[b]);
            for (std::size_t a = 0; a < size; ++a) mean += energy[a][a] / count;
            for (std::size_t a = 0; a < size; ++a) energy[a][a] += 0.01L * mean;
            trace += double(count * mean), damping += double(0.01L * mean * count);
            const auto [vectors, values] = eigen(energy);
            for (rw::index c = 0; c < count; ++c) {
                if (c < members) first += double(values[c]);
                CHECK(made.eigenvalues[g][c] == Approx(double(values[c])).margin(1e-11 * double(values[0])));
                for (rw::index r = 0; r < count; ++r) {
                    CHECK(made.mixing[g](r, c) == Approx(double(vectors[r][c])).margin(1e-10));
                    // Where the map has it: virtual head c / members, pair (g, c % members).
                    const rw::index pair = g * members + c % members;
                    const rw::index to = c / members * made.virtual_dim() + 2 * pair;
                    CHECK(made.map(to, at[0][r]) == made.mixing[g](r, c));
                    CHECK(made.map(to + 1, at[1][r]) == made.mixing[g](r, c));
                    CHECK(made.map(to, at[1][r]) == 0);
                }
            }
        }
        CHECK(made.first_head_share() == Approx(first / (trace + damping)).epsilon(1e-12));
        // Orthogonal: no key loses length.
        const Eigen::MatrixXd one = made.map * made.map.transpose();
        CHECK((one - Eigen::MatrixXd::Identity(heads * d, heads * d)).cwiseAbs().maxCoeff() < 1e-13);
    }
}

TEST_CASE("rope_folding: without folding all virtual heads rotated give the scores of the keys as they were",
          "[compression][rope_folding]") {
    for (const pair_layout layout : {pair_layout(half_split{}), pair_layout(interleaved{})}) {
        const rope_folding_config config{.heads = 2, .head_dim = 12, .layout = layout};
        const auto omega = frequencies::geometric({.rotary_dim = 12, .base = 100});
        const auto keys = keys_of(9, 24, 3), queries = matrix(3, 4 * 12, 5);
        const auto fold = make_rope_folding(config, keys_of(30, 24, 4));
        const auto want = plain_scores(config, omega, keys, queries, 4);
        const double size = keys.rowwise().norm().maxCoeff() * queries.rowwise().norm().maxCoeff();
        CHECK(support::worst(latent_scores(fold, omega, keys, queries, 4, 2, 0), want) < 1e-13 * size);
        // Any shift of all positions changes nothing, with one head as with all.
        for (const rw::index rotating : {1, 2})
            CHECK(support::worst(latent_scores(fold, omega, keys, queries, 4, rotating, 0),
                                 latent_scores(fold, omega, keys, queries, 4, rotating, 64)) < 1e-12 * size);
        // One head alone is not exact, and neither is a fold of unequal frequencies.
        CHECK(support::worst(latent_scores(fold, omega, keys, queries, 4, 1, 0), want) > 1e-3 * size);
        auto folded = config;
        folded.fold = 2;
        const auto mixed = make_rope_folding(folded, keys_of(30, 24, 4));
        CHECK(support::worst(latent_scores(mixed, omega, keys, queries, 4, 2, 0), want) > 1e-4 * size);
        // With one frequency for all pairs a fold is exact too.
        const auto flat = frequencies::geometric({.rotary_dim = 12, .base = 1});
        folded.collapse = 2;
        const auto narrow = make_rope_folding(folded, keys_of(30, 24, 4));
        CHECK(support::worst(latent_scores(narrow, flat, keys, queries, 4, 4, 0),
                             plain_scores(folded, flat, keys, queries, 4)) < 1e-13 * size);
    }
}

TEST_CASE("rope_folding: scheme rotates a virtual head, key_weights makes latent keys",
          "[compression][rope_folding]") {
    const auto fold =
        make_rope_folding({.heads = 2, .head_dim = 16, .fold = 4, .collapse = 2}, keys_of(40, 32, 7));
    const auto omega = frequencies::geometric({.rotary_dim = 16});
    const auto scheme = fold.scheme(omega);
    CHECK(scheme.head_dim == 8);
    CHECK(scheme.read_layout == pair_layout(interleaved{}));
    const auto narrow = scheme.spectrum_for(1);
    REQUIRE(narrow.pairs() == 4);
    for (rw::index j = 0; j < 4; ++j) CHECK(narrow.omega(j) == omega.omega(2 * j));
    const auto weight = matrix(32, 5, 8), x = matrix(6, 5, 9);
    const row_major keys = x * fold.key_weights(weight).transpose();
    CHECK((keys - x * weight.transpose() * fold.map.transpose()).cwiseAbs().maxCoeff() < 1e-13);
    CHECK(fold.query_map(3, 4) == fold.map.rightCols(16));
    CHECK(fold.query_map(1, 4) == fold.map.leftCols(16));
}

TEST_CASE("rope_folding: keys that lie in one head of a group are held by the first virtual head",
          "[compression][rope_folding]") {
    // All heads repeat one, so one component a frequency carries everything.
    const auto one = matrix(30, 8, 21);
    row_major keys(30, 24);
    keys << one, one, one;
    const auto fold = make_rope_folding({.heads = 3, .head_dim = 8, .damping = 0}, keys);
    CHECK(fold.first_head_share() == Approx(1).epsilon(1e-13));
    CHECK((keys * fold.map.transpose()).rightCols(16).cwiseAbs().maxCoeff() < 1e-13);
}

TEST_CASE("rope_folding: bad input is refused by name", "[compression][rope_folding]") {
    const row_major keys = matrix(5, 16, 1);
    const auto make = [&](rope_folding_config c) { return make_rope_folding(c, keys); };
    CHECK_REFUSES("make_rope_folding: heads must be >= 1, got 0", make({.heads = 0, .head_dim = 8}));
    CHECK_REFUSES("make_rope_folding: head_dim must be even and > 0, got 7",
                  make({.heads = 2, .head_dim = 7}));
    CHECK_REFUSES("make_rope_folding: fold must divide head_dim / 2, got 3",
                  make({.heads = 2, .head_dim = 8, .fold = 3}));
    CHECK_REFUSES("make_rope_folding: fold must divide head_dim / 2, got 0",
                  make({.heads = 2, .head_dim = 8, .fold = 0}));
    CHECK_REFUSES("make_rope_folding: collapse must divide fold, got 4",
                  make({.heads = 2, .head_dim = 8, .fold = 2, .collapse = 4}));
    CHECK_REFUSES("make_rope_folding: damping must be finite and >= 0, got -1",
                  make({.heads = 2, .head_dim = 8, .damping = -1}));
    CHECK_REFUSES("make_rope_folding: keys must have heads * head_dim columns: wanted 24, got 16",
                  make({.heads = 3, .head_dim = 8}));
    CHECK_REFUSES("make_rope_folding: keys must not be empty, rows, got 0",
                  make_rope_folding({.heads = 2, .head_dim = 8}, row_major(0, 16)));
    row_major bad = keys;
    bad(1, 1) = NAN;
    CHECK_REFUSES("make_rope_folding: keys must be finite, their sum, got nan",
                  make_rope_folding({.heads = 2, .head_dim = 8}, bad));
    CHECK(support::refusal([&] {
              static_cast<void>(make_rope_folding({.heads = 2, .head_dim = 8}, row_major(keys * 1e200)));
          })
              .starts_with(
                  "make_rope_folding: keys and damping must leave energies finite, the largest key, got "));
    const auto fold = make({.heads = 2, .head_dim = 8});
    CHECK_REFUSES("rope_folding::key_weights: weight must have heads * head_dim rows: wanted 16, got 4",
                  fold.key_weights(matrix(4, 3, 1)));
    CHECK_REFUSES("rope_folding::query_map: query_heads must be a multiple of the heads, got 3",
                  fold.query_map(0, 3));
    CHECK_REFUSES("rope_folding::query_map: query_head must be in 0 .. query_heads - 1, got 4",
                  fold.query_map(4, 4));
    CHECK_REFUSES("rope_folding::scheme: frequencies must have head_dim / 2 pairs, got 8",
                  fold.scheme(frequencies::geometric({.rotary_dim = 16})));
}
