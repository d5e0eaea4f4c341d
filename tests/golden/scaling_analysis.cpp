// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// What a base can carry, how scores decay, linear attention.

#include <algorithm>

#include <ropewalk/analysis/base_bound.hpp>
#include <ropewalk/analysis/decay.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/models/presets.hpp>

#include "runner.hpp"

namespace golden {
namespace {

void base_bound(const golden_case& c, results& out) {
    const analysis::min_base_config search;
    const index head_dim = c.integer("head_dim", search.head_dim);
    const auto ladder = [head_dim](double base) {
        return frequencies::geometric({.rotary_dim = head_dim, .base = base});
    };
    if (c.has_output("B")) {
        const auto m = c.input("m");
        const auto bases = c.input("base");
        std::vector<double> all;
        for (double base : bases.values)
            for (double distance : m.values) all.push_back(analysis::discrimination(ladder(base), distance));
        out.check("B", {bases.count(), m.count()}, all);
    }
    if (c.has_output("first_negative_m")) {
        std::vector<double> places;
        std::vector<double> there;
        for (double base : c.input("base").values) {
            const auto place = analysis::first_negative(ladder(base), c.integer("cap", 200000));
            places.push_back(static_cast<double>(place));
            there.push_back(analysis::discrimination(ladder(base), static_cast<double>(place)));
        }
        out.check("first_negative_m", places);
        out.check("B_at_that_m", there);
    }
    if (c.has_output("base_min")) {
        std::vector<double> bases;
        for (auto length : c.input<std::int64_t>("L").values) {
            const auto found =
                analysis::min_base({.head_dim = head_dim,
                                    .context_length = length,
                                    .rounds = static_cast<int>(c.integer("K", search.rounds))});
            require(found.has_value(), "no base holds for L " + std::to_string(length));
            bases.push_back(*found);
        }
        out.check("base_min", bases);
    }
    if (c.has_output("paper")) {
        std::vector<double> paper;
        std::vector<double> recomputed;
        for (auto length : c.input<std::int64_t>("L").values) {
            const auto table = analysis::published_base_bounds();
            const auto row = std::find_if(table.begin(), table.end(),
                                          [length](const auto& r) { return r.context_length == length; });
            require(row != table.end(), "no published bound for L " + std::to_string(length));
            paper.push_back(row->paper);
            recomputed.push_back(row->recomputed);
        }
        out.check("paper", paper);
        out.check("recomputed", recomputed);
    }
}

spectrum ladder_of(const golden_case& c) {
    frequencies::geometric_config config{.rotary_dim = c.integer("head_dim")};
    config.base = c.number("base", config.base);
    return frequencies::geometric(config);
}

void decay(const golden_case& c, results& out) {
    const auto s = ladder_of(c);
    out.check("mean_abs_S", analysis::make_decay_curve(s, c.input("rel").values));
}

void linear_attention(const golden_case& c, results& out) {
    require(c.word("feature_map", "elu+1") == "elu+1",
            "feature_map " + c.word("feature_map", "") + " is not known");
    const auto s = ladder_of(c);
    const auto order =
        c.flag("causal", false) ? attention::causality::causal : attention::causality::bidirectional;
    // RoFormer's own layout where the file names none.
    const pair_layout layout = c.has("layout") || c.has("pair_layout")
                                   ? c.layout()
                                   : presets::roformer_base(weights::hugging_face).read_layout;
    require(layout.fits(c.integer("head_dim") / 2), "layout must fit head_dim");
    const auto where = position_ids::from(c.input("positions").values);
    const auto run = [&]<class T>(T) {
        auto q = c.input<T>("q"), k = c.input<T>("k"), v = c.input<T>("v");
        // As many heads as q has, as wide as v.
        const heads_shape queries = c.shape_of("q"), values = c.shape_of("v");
        tensor<T> to{q.shape, {}};
        require(!to.shape.empty(), "q must not be a scalar");
        to.shape.back() = values.channels;
        to.values.resize(
            static_cast<std::size_t>(queries.batches * queries.tokens * queries.heads * values.channels));
        attention::fill_linear_attention<T>(
            layout, order, {.q = view_of(q), .k = view_of(k), .v = view_of(v), .out = view_of(to)},
            make_rotation_table<T>(s, where));
        return to;
    };
    out.check("out", run(double{}));
    const auto narrow = run(float{});
    out.check_f32("out", narrow.shape, narrow.values, max_abs(c.input("v").values));
}

const registration systems[] = {
    {"Base of RoPE bounds context length", base_bound},
    {"RoFormer long-term decay", decay},
    {"RoFormer linear attention with RoPE", linear_attention},
};

}  // namespace
}  // namespace golden
