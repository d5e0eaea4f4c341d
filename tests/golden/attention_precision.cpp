// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Drift of scores under casts to bf16, by shift and by key.

#include <ropewalk/analysis/precision_drift.hpp>

#include "runner.hpp"

namespace golden {
namespace {

drift::rotary rope_of(const golden_case& c, const std::vector<float>& omega) {
    return {omega, c.layout("pair_layout")};
}

void by_shift(const golden_case& c, results& out) {
    const auto omega = c.input<float>("inv_freq_f32").values;
    const auto q = c.input("q"), k = c.input("k");
    using list = std::vector<double>;
    const auto shifts =
                   c.has("shifts") ? c.numbers("shifts") : list{0, 16, 256, 1000, 4096, 16384, 65536, 131072},
               offsets = c.has("relative_offsets") ? c.numbers("relative_offsets") : list{0, 1, 16, 128};
    const auto count = [](const auto& x) { return static_cast<index>(x.size()); };
    std::vector<double> moved;
    const auto names =
        c.has("modes")
            ? c.config().at("modes").get<std::vector<std::string>>()
            : std::vector<std::string>{"exact",      "all_f32", "table_f32_out_bf16", "table_bf16_math_f32",
                                       "table_bf16", "pos_bf16"};
    for (const auto& name : names) {
        const auto t = drift::make_shift_table(drift::mode_named(name), q.values, k.values, rope_of(c, omega),
                                               shifts, offsets);
        out.check("logits_" + name, {count(shifts), q.extent(0), count(offsets)}, t.logits);
        for (std::size_t s = 0; s < shifts.size(); ++s) {
            moved.push_back(t.mean[s]);
            moved.push_back(t.max[s]);
        }
    }
    out.check("deviation_mean_max", {count(names), count(shifts), 2}, moved);
}

void by_key(const golden_case& c, results& out) {
    const auto omega = c.input<float>("inv_freq_f32").values;
    const auto q = c.input("q"), k = c.input("k");
    for (auto mode : drift::all_modes) {
        const std::string name(drift::name_of(mode));
        if (!c.has_output("column_logit_difference_" + name)) continue;
        const auto t = drift::make_column_table(mode, q.values, k.values, rope_of(c, omega),
                                                c.number("shift_1", 0), c.number("shift_2"));
        out.check("column_logit_difference_" + name, t.logits);
        out.check("column_weight_difference_" + name, t.weights);
    }
}

const registration systems[] = {
    {"BF16 RoPE deviation", by_shift},
    {"BF16 RoPE deviation per key", by_key},
};

}  // namespace
}  // namespace golden
