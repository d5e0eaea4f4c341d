// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// RoAd: one adapter on a dense layer, two in sequence or on disjoint pairs, several in one batch.

#include <ropewalk/adapters/road_bank.hpp>

#include "runner.hpp"

namespace golden {
namespace {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

matrix matrix_of(const tensor<double>& t) {
    const index columns = t.rank() == 1 ? 1 : t.shape.back();
    return Eigen::Map<const matrix>(t.values.data(), columns == 0 ? 0 : t.count() / columns, columns);
}
std::vector<double> values_of(const matrix& m) { return {m.data(), m.data() + m.size()}; }

road::variant variant_of(const json& config) {
    const auto word = config.value("variant", std::string("road_1"));
    for (auto v : {road::variant::road_1, road::variant::road_2, road::variant::road_4})
        if (word == "road_" + std::to_string(static_cast<int>(v))) return v;
    throw error("config.variant: unknown word " + word);
}
road::adapter adapter_of(const golden_case& c, const json& config, const std::string& suffix = "") {
    return {{.channels = c.integer("out_features"),
             .group = config.value("group_size", index{64}),
             .variant = variant_of(config)},
            c.input("theta" + suffix).values,
            c.input("alpha" + suffix).values};
}

/// The layer below the adapter; peft adds the bias before it turns.
matrix base_output(const golden_case& c, const std::string& x) {
    const matrix w = matrix_of(c.input("base_weight"));
    matrix out = matrix_of(c.input(x)) * w.transpose();
    if (c.has_input("base_bias")) out.rowwise() += matrix_of(c.input("base_bias")).transpose().row(0);
    return out;
}

/// Mixes h [rows, channels] in f64 and in f32 by `mix(view)`, and checks both.
template <class F>
void check_mixed(results& out, const std::string& name, const shape_type& shape, const matrix& h, F&& mix) {
    std::vector<double> wide = values_of(h);
    mix(heads_view<double>(wide.data(), h.rows(), 1, h.cols()));
    out.check(name, shape, wide);
    const std::vector<double> before = values_of(h);
    std::vector<float> narrow(before.begin(), before.end());
    mix(heads_view<float>(narrow.data(), h.rows(), 1, h.cols()));
    out.check_f32(name, shape, narrow, std::max(max_abs(before), max_abs(wide)));
}

template <class T>
void mix_all(const road::pair_blocks& blocks, heads_view<T> h) {
    const std::vector<std::int32_t> same(static_cast<std::size_t>(h.tokens()), 0);
    const auto table = road::make_table<compute_t<T>>(blocks);
    mix_pairs(blocks.layout(), h, table.rows(std::span<const std::int32_t>(same)));
}

void one_layer(const golden_case& c, results& out) {
    const road::adapter a = adapter_of(c, c.config());
    const auto blocks = road::make_blocks(a);
    const auto columns = road::make_columns(a);
    out.check("first_col", columns.first);
    out.check("second_col", columns.second);

    const matrix h = base_output(c, "x");
    shape_type shape = c.extents_of("x");
    shape.back() = h.cols();
    out.check("base_out", shape, values_of(h));
    check_mixed(out, "y", shape, h, [&](auto view) { mix_all(blocks, view); });

    const shape_type square{h.cols(), h.cols()};
    out.check("R", square, values_of(road::make_matrix(blocks)));
    if (c.has_output("R_inverse"))  // a block may be singular
        out.check("R_inverse", square, values_of(road::make_matrix(road::make_inverse(blocks))));
    matrix weight = matrix_of(c.input("base_weight"));
    road::merge(blocks, weight);
    out.check("merged_weight", {weight.rows(), weight.cols()}, values_of(weight));
    if (c.has_input("base_bias")) {
        matrix bias = matrix_of(c.input("base_bias"));
        road::merge(blocks, bias);
        out.check("merged_bias", values_of(bias));
    }
}

void composition(const golden_case& c, results& out) {
    const auto a = road::make_blocks(adapter_of(c, c.config(), "_a"));
    const auto b = road::make_blocks(adapter_of(c, c.config(), "_b"));
    const matrix h = matrix_of(c.input("h"));
    const shape_type shape = c.extents_of("h");
    check_mixed(out, "stacked", shape, h, [&](auto view) { mix_all(road::make_product(b, a), view); });
    if (!c.has_output("composed")) return;  // nor the subset that it needs
    const auto subset = c.input<std::uint8_t>("pair_belongs_to_a").values;
    check_mixed(out, "composed", shape, h,
                [&](auto view) { mix_all(road::select_pairs(subset, a, b), view); });
}

void mixed_batch(const golden_case& c, results& out) {
    const index channels = c.integer("out_features");
    std::vector<std::string> known;
    for (const auto& [name, config] : c.config().at("adapters").items()) known.push_back(name);
    const auto wanted = c.config().at("adapter_names").get<std::vector<std::string>>();

    road::adapter_bank<double> wide(channels, known);
    road::adapter_bank<float> narrow(channels, known);
    std::map<std::string, road::columns> columns;
    columns[wide.base] = road::make_columns(road::adapter({.channels = channels, .group = 2}));
    for (const auto& [name, config] : c.config().at("adapters").items()) {
        if (!c.has_input("theta_" + name)) continue;  // a layer that lacks the adapter
        const auto a = adapter_of(c, config, "_" + name);
        wide.set(name, road::make_blocks(a));
        narrow.set(name, road::make_blocks(a));
        columns[name] = road::make_columns(a);
    }
    std::vector<double> first, second;
    for (const auto& name : wanted) {
        const auto& own = columns.contains(name) ? columns[name] : columns[wide.base];
        first.insert(first.end(), own.first.begin(), own.first.end());
        second.insert(second.end(), own.second.begin(), own.second.end());
    }
    const auto requests = static_cast<index>(wanted.size());
    out.check("row_first_col", {requests, channels}, first);
    out.check("row_second_col", {requests, channels}, second);

    const matrix h = base_output(c, "x");
    shape_type shape = c.extents_of("x");
    require(shape.at(0) == requests, "adapter_names must name one adapter a request");
    shape.back() = channels;
    const index each = requests == 0 ? 0 : h.rows() / requests;
    const auto ids = wide.ids_of(wanted);
    check_mixed(out, "y", shape, h, [&]<class T>(heads_view<T> view) {
        if constexpr (std::is_same_v<T, double>) {
            road::mix_pairs(view, wide.rows(ids, each));
        } else {
            road::mix_pairs(view, narrow.rows(ids, each));
        }
    });
}

const registration adapters[] = {
    {"RoAd", one_layer},
    {"RoAd composition", composition},
    {"RoAd mixed batch", mixed_batch},
};

}  // namespace
}  // namespace golden
