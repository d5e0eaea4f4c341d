// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Keys in a basis in which one virtual head holds what rotates.

#include <ropewalk/compression/rope_folding.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Map<const row_major> matrix_of(const tensor<double>& t) {
    return {t.values.data(), t.extent(0), t.values.empty() ? 0 : t.count() / t.extent(0)};
}
std::vector<double> values_of(const row_major& m) { return {m.data(), m.data() + m.size()}; }

void folding(const golden_case& c, results& out) {
    const auto calibration = c.input("calibration_keys"), weight = c.input("k_weight"), x = c.input("x"),
               q = c.input("q");
    const index heads = c.integer("num_kv_heads"), d = c.integer("head_dim");
    const auto fold = make_rope_folding({.heads = heads,
                                         .head_dim = d,
                                         .fold = c.integer("freqfold", 1),
                                         .collapse = c.integer("collapse", 1),
                                         .damping = c.number("damp", 0.01),
                                         .layout = c.layout()},
                                        matrix_of(calibration));
    std::vector<double> eigenvalues, vectors;
    for (index g = 0; g < fold.groups(); ++g) {
        const auto& values = fold.eigenvalues[static_cast<std::size_t>(g)];
        eigenvalues.insert(eigenvalues.end(), values.begin(), values.end());
        const auto u = values_of(fold.mixing[static_cast<std::size_t>(g)]);
        vectors.insert(vectors.end(), u.begin(), u.end());
    }
    const index n = fold.components(), width = heads * d;
    out.check("eigenvalues", {fold.groups(), n}, eigenvalues);
    out.check("U", {fold.groups(), n, n}, vectors);

    const row_major rotated = fold.key_weights(matrix_of(weight));
    out.check("k_weight_rotated", weight.shape, values_of(rotated));
    const index tokens = x.extent(0), query_heads = q.extent(1);
    const auto keys = values_of(matrix_of(x) * rotated.transpose());
    out.check("k_latent", {tokens, width}, keys);
    row_major queries(tokens * query_heads, width);
    for (index h = 0; h < query_heads; ++h) {
        const Eigen::MatrixXd map = fold.query_map(h, query_heads);
        for (index t = 0; t < tokens; ++t)
            queries.row(t * query_heads + h) =
                (map * matrix_of(q).row(t).segment(h * d, d).transpose()).transpose();
    }
    out.check("q_latent", {tokens, query_heads, width}, values_of(queries));

    const auto omega = frequencies::geometric({.rotary_dim = d, .base = c.number("base", 1e4)});
    const auto where = position_ids::from(c.input("positions").values);
    const auto scheme = fold.scheme(omega);
    const shape_type shape{query_heads, q.extent(0), tokens};
    const row_major plain = matrix_of(x) * matrix_of(weight).transpose();
    in_both([&]<class T>(T) {
        const auto narrow = [](const auto& from) { return std::vector<T>(from.begin(), from.end()); };
        const auto score = [&](const char* name, index rotating) {
            auto ql = narrow(values_of(queries)), kl = narrow(keys);
            const index w = fold.virtual_dim();
            const auto rows = make_rotation_table<T>(scheme.spectrum_for(1), where);
            // [tokens, query heads, width]: the virtual heads of each that rotate
            for (index h = 0; h < rotating; ++h) {
                rotate(scheme, heads_view<T>(ql.data(), tokens, query_heads, width).channel_slice(h * w, w),
                       rows);
                rotate(scheme, heads_view<T>(kl.data(), tokens, 1, width).channel_slice(h * w, w), rows);
            }
            check_in<T>(out, name, shape,
                        scores_of(heads_view<T>(ql.data(), tokens, query_heads, width),
                                  heads_view<T>(kl.data(), tokens, 1, width)),
                        max_abs(keys));
        };
        score("scores_all_rotated", fold.virtual_heads());
        score("scores_one_head", 1);
        auto qt = c.input<T>("q");
        auto kt = narrow(values_of(plain));
        const heads_view<T> qv(qt.values.data(), tokens, query_heads, d), kv(kt.data(), tokens, heads, d);
        rotate(c.layout(), qv, kv, make_rotation_table<T>(omega, where));
        check_in<T>(out, "scores_exact", shape, scores_of(qv, kv), max_abs(keys));
    });
}

const registration registered[] = {{"TransMLA RoRoPE", folding}};

}  // namespace
}  // namespace golden
