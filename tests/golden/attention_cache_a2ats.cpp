// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// A2ATS: query-aware vector quantisation, the decode step.

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/compression/codebook.hpp>
#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "runner.hpp"

namespace golden {
namespace {

Eigen::MatrixXd matrix_of(const tensor<double>& t, index slice = 0) {
    const index rows = t.extent(t.rank() - 2), cols = t.extent(t.rank() - 1);
    using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    return Eigen::Map<const row_major>(t.values.data() + slice * rows * cols, rows, cols);
}

template <class M>
void check_matrix(results& out, const std::string& name, const M& m) {
    const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows =
        m.template cast<double>();
    out.check(name, {rows.rows(), rows.cols()}, std::vector<double>(rows.data(), rows.data() + rows.size()));
}

void quantization(const golden_case& c, results& out) {
    const auto q = matrix_of(c.input("q")), k = matrix_of(c.input("k"));
    const index codewords = c.integer("codebook_size");
    const codebook_options options{
        .codewords = codewords, .iterations = c.integer("iterations"), .tolerance = c.number("tolerance", 0)};
    const auto metric = make_query_metric(q, c.number("epsilon", 1e-6));
    const auto fit = make_codebook<double>(k, metric, options, k.topRows(codewords) * metric.cholesky);
    const auto quantizer = fit.quantizer(metric);
    check_matrix(out, "H_normalised", metric.gram);
    check_matrix(out, "cholesky", metric.cholesky);
    out.check("loss_per_iteration", fit.loss);
    out.check("centroid_shift", fit.shift);
    check_matrix(out, "centroids_transformed", fit.codewords);
    check_matrix(out, "codebook", quantizer.key_codewords());
    out.check("labels", fit.labels);
    out.check_scalar("objective", fit.objective);
    out.check_scalar("score_squared_error", score_squared_error(q, k, quantizer, fit.labels));
    const auto plain = make_plain_metric(k.cols());
    const auto blind = make_codebook<double>(k, plain, options, k.topRows(codewords));
    out.check_scalar("score_squared_error_plain_vq",
                     score_squared_error(q, k, blind.quantizer(plain), blind.labels));
    check_matrix(out, "approx_scores", make_approximate_scores(q, quantizer, fit.labels));
}

template <class T>
void decode(const golden_case& c, results& out) {
    auto q = c.input<T>("q"), k = c.input<T>("k"), v = c.input<T>("v");
    const auto codebook = c.input("codebook"), cholesky = c.input("cholesky");
    const index heads = q.extent(0), d = q.extent(1), kv_heads = k.extent(0), tokens = k.extent(1);
    const bool in_metric = c.word("codebook_space", "key space").find("key") != 0;
    std::vector<vector_quantizer<T>> quantizers;
    for (index kv = 0; kv < kv_heads; ++kv)
        quantizers.emplace_back(matrix_of(codebook, kv), matrix_of(cholesky, kv),
                                in_metric ? codeword_space::metric : codeword_space::keys);
    const auto omega = frequencies::geometric({.rotary_dim = d, .base = c.number("rope_base", 1e4)});
    const rotary_scheme rope = make_fixed_scheme({.layout = c.layout()}, omega);
    retrieval_options options{.heads = heads,
                              .window = c.integer("window", 64),
                              .relative_position = c.number("relative_pos", 2048),
                              .sinks = c.integer("attention_sink", 8),
                              .top_fraction = c.number("topk_fraction", 0.03)};
    if (c.has("topk_count")) options.top_count = c.integer("topk_count");
    const index value_channels = options.value_channels = v.extent(2);
    const auto by_head = [&](auto& t) {
        return heads_view<T>::heads_first(t.values.data(),
                                          {.tokens = tokens, .heads = t.extent(0), .channels = t.extent(2)});
    };
    auto rotated = k;
    const auto rows = make_rotation_table<T>(omega, position_ids::text(tokens));
    require_fits(rope, by_head(rotated), rows);
    rotate(rope, by_head(rotated), rows);
    for (const cached_keys stored : {cached_keys::rotated, cached_keys::unrotated}) {
        options.keys = stored;
        retrieval_cache<T> cache(quantizers, rope, options);
        cache.append(by_head(k));
        std::vector<T> scores(static_cast<std::size_t>(heads * tokens)),
            o(static_cast<std::size_t>(heads * value_channels));
        std::vector<std::uint8_t> top(scores.size()), attended(static_cast<std::size_t>(kv_heads * tokens));
        cache.attend(heads_view<T>(q.values.data(), 1, heads, d),
                     by_head(stored == cached_keys::rotated ? rotated : k), by_head(v),
                     heads_view<T>(o.data(), 1, heads, value_channels),
                     {.approximate_scores = scores, .top = top, .attended = attended});
        std::vector<index> labels;
        for (index kv = 0; kv < kv_heads; ++kv)
            for (auto label : cache.codewords_of(kv)) labels.push_back(label);
        const shape_type per_head{heads, tokens}, per_kv{kv_heads, tokens};
        if constexpr (std::is_same_v<T, double>) {
            out.check("vq_ids", per_kv, labels);
            out.check("approx_scores", per_head, scores);
            out.check("topk_per_head", per_head, top);
            out.check("attended", per_kv, attended);
            out.check("o", {heads, value_channels}, o);
        } else {
            const double scale = max_abs(c.input("v").values) * max_abs(c.input("q").values);
            out.check_f32("approx_scores", per_head, scores, scale * max_abs(c.input("k").values));
            out.check_f32("o", {heads, value_channels}, o, scale);
        }
    }
}

void decode_step(const golden_case& c, results& out) {
    decode<double>(c, out);
    decode<float>(c, out);
}

const registration r1{"Query-aware vector quantization", quantization};
const registration r2{"A2ATS decode step", decode_step};

}  // namespace
}  // namespace golden
