// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// EliteKV: the search for elite pairs and the joint low-rank cache.

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "runner.hpp"

namespace golden {
namespace {

using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::MatrixXd matrix_of(const golden_case& c, const std::string& name) {
    const auto t = c.input(name);
    require(t.rank() == 2, name + " must have rank 2");
    return Eigen::Map<const row_major>(t.values.data(), t.extent(0), t.extent(1));
}

void check_matrix(results& out, const std::string& name, const Eigen::MatrixXd& m) {
    const row_major rows = m;
    out.check(name, {rows.rows(), rows.cols()}, std::vector<double>(rows.data(), rows.data() + rows.size()));
}

template <class T>
heads_view<T> heads_first(tensor<T>& t) {
    return heads_view<T>::heads_first(t.values.data(),
                                      {.tokens = t.extent(1), .heads = t.extent(0), .channels = t.extent(2)});
}

template <class T>
void packed(const golden_case& c, results& out, const elite_layout& layout, const spectrum& omega) {
    const auto q = c.input<T>("q"), k = c.input<T>("k");
    const index tokens = q.extent(1), heads = q.extent(0);
    auto q_packed = q, k_packed = k, q_given = q, k_given = k;
    layout.fill_packed(heads_first(q_given), heads_first(q_packed));
    layout.fill_packed(heads_first(k_given), heads_first(k_packed));
    const auto where = position_ids::text(tokens);
    for (tensor<T>* t : {&q_packed, &k_packed}) {
        const auto rope = layout.scheme(omega, t->extent(0));
        rotate(rope, heads_first(*t), make_rotation_table<T>(rope.spectrum_for(1), where));
    }
    std::vector<T> scores(static_cast<std::size_t>(heads * tokens * tokens));
    tensor<T> unused = q_packed;
    attend(heads_first(q_packed), heads_first(k_packed), heads_first(k_packed), heads_first(unused),
           {.scores = scores});
    if constexpr (std::is_same_v<T, double>) {
        out.check("packed_q", q_packed);
        out.check("packed_k", k_packed);
        out.check("hybrid_scores", {heads, tokens, tokens}, scores);
    } else {
        const double size = max_abs(c.input("q").values), of_keys = max_abs(c.input("k").values);
        out.check_f32("packed_q", q_packed.shape, q_packed.values, size);
        out.check_f32("packed_k", k_packed.shape, k_packed.values, of_keys);
        out.check_f32("hybrid_scores", {heads, tokens, tokens}, scores,
                      size * of_keys * std::sqrt(static_cast<double>(layout.head_dim())));
    }
}

void selection(const golden_case& c, results& out) {
    auto q = c.input("q"), k = c.input("k");
    const index d = q.extent(2), rounds = c.integer("half_of_rope_dim"), kv_heads = k.extent(0);
    const auto omega = frequencies::geometric({.rotary_dim = d, .base = c.number("rope_base", 1e4)});
    const auto ranking =
        make_elite_ranking(heads_first(q), heads_first(k), omega,
                           {.rounds = rounds, .causal = c.flag("causal", true), .layout = c.layout()});
    out.check("distance_table", {rounds, kv_heads, d / 2}, ranking.distances);
    out.check("elite_in_selection_order", {kv_heads, rounds}, ranking.order);
    const auto elite = ranking.elite(rounds);
    out.check("elite_sorted", {kv_heads, rounds}, elite);
    const elite_layout layout(elite, kv_heads, d, c.layout());
    packed<double>(c, out, layout, omega);
    packed<float>(c, out, layout, omega);
}

void joint(const golden_case& c, results& out) {
    const auto k = matrix_of(c, "k_weight"), v = matrix_of(c, "v_weight"), x = matrix_of(c, "x");
    const auto elite = c.input<index>("elite");
    const index heads = c.integer("num_heads", elite.extent(0)), latent = c.integer("kv_dim");
    const elite_layout layout(elite.values, heads, c.integer("head_dim"));
    const auto a = make_joint_matrix(k, v, layout);
    const auto f = make_low_rank(a, latent);
    check_matrix(out, "joint_matrix", a);
    out.check("singular_values", std::vector<double>(f.singular_values.begin(), f.singular_values.end()));
    check_matrix(out, "reconstruction", f.product());
    const Eigen::MatrixXd cached = x * f.down;
    check_matrix(out, "kv_from_latent", cached * f.up);
    check_matrix(out, "latent_gram", cached * cached.transpose());
    out.check_scalar("squared_error_joint", f.squared_error());
    const index key_rank = std::min({latent / 2, k.cols(), heads * layout.nope_channels()});
    const index value_rank = std::min({latent - latent / 2, k.cols(), heads * layout.head_dim()});
    out.check_scalar("squared_error_separate_even_split",
                     make_split_low_rank(k, v, layout, key_rank, value_rank).squared_error());
    out.check_scalar("cache_ratio", elite_cache_ratio(layout, latent));
}

const registration r1{"EliteKV RoPElite selection", selection};
const registration r2{"EliteKV J-LRD", joint};

}  // namespace
}  // namespace golden
