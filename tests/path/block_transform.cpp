// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/block_transform.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace {

using namespace support;
namespace path = rw::path;

struct block {
    rw::index n, channels;
    std::vector<double> w, beta;
    path::matrix<double> rows() const {
        return Eigen::Map<const path::matrix<double>>(w.data(), n, channels);
    }
};
block make(rw::index n, rw::index channels) {
    return {n, channels, unit_rows(n, channels, 1), noise(n, 2, {.centre = 1})};
}
Eigen::MatrixXd householder(const block& b, rw::index t) {
    const Eigen::VectorXd w = b.rows().row(t);
    return Eigen::MatrixXd::Identity(b.channels, b.channels) -
           b.beta[static_cast<std::size_t>(t)] * w * w.transpose();
}

}  // namespace

TEST_CASE("block transform: made at once or one by one, it is the product of its transforms",
          "[path][block]") {
    for (rw::index n : {0, 1, 2, 7, 30}) {
        const block b = make(n, 12);
        Eigen::MatrixXd product = Eigen::MatrixXd::Identity(12, 12);
        for (rw::index t = 0; t < n; ++t) product = (householder(b, t) * product).eval();
        path::block_transform<double> at_once(b.rows(), b.beta), one_by_one(12);
        for (rw::index t = 0; t < n; ++t)
            one_by_one.accumulate(std::span(b.w).subspan(static_cast<std::size_t>(t * 12), 12),
                                  b.beta[static_cast<std::size_t>(t)]);
        CHECK(one_by_one.tokens() == n);
        for (const auto* transform : {&at_once, &one_by_one}) {
            path::matrix<double> q = path::matrix<double>::Identity(12, 12), k = q;
            transform->apply_to_query(q);
            transform->update_keys(k);
            CHECK((q - product).cwiseAbs().maxCoeff() < 1e-13);
            CHECK((k - product.transpose()).cwiseAbs().maxCoeff() < 1e-13);
        }
    }
}

TEST_CASE("block transform: the block's own keys meet the transforms after them", "[path][block]") {
    const block b = make(6, 8);
    const auto values = noise(48, 3);
    const path::matrix<double> keys = Eigen::Map<const path::matrix<double>>(values.data(), 6, 8);
    const path::block_transform<double> transform(b.rows(), b.beta);
    const auto at_end = transform.keys_at_end(keys, transform.own_keys(keys, b.beta));
    for (rw::index s = 0; s < 6; ++s) {
        Eigen::VectorXd k = keys.row(s);
        for (rw::index t = s + 1; t < 6; ++t) k = (householder(b, t) * k).eval();
        CHECK((at_end.row(s).transpose() - k).cwiseAbs().maxCoeff() < 1e-13);
    }
}

TEST_CASE("block transform: only beta 0 and 2 keep norms, and w 0 is the identity", "[path][block]") {
    block b = make(5, 6);
    for (double beta : {0.0, 2.0}) {
        std::fill(b.beta.begin(), b.beta.end(), beta);
        path::matrix<double> q = path::matrix<double>::Identity(6, 6);
        path::block_transform<double>(b.rows(), b.beta).apply_to_query(q);
        CHECK((q * q.transpose() - path::matrix<double>::Identity(6, 6)).cwiseAbs().maxCoeff() < 1e-13);
    }
    std::fill(b.w.begin(), b.w.end(), 0.0);
    path::matrix<double> q = path::matrix<double>::Identity(6, 6);
    path::block_transform<double>(b.rows(), b.beta).apply_to_query(q);
    CHECK(q == path::matrix<double>::Identity(6, 6));
}
