// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// PSC's calibration before the rotation, and ggml's own arithmetic.

#include <cctype>

#include <ropewalk/adapters/phase_shift.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/ggml.hpp>
#include <ropewalk/schemes/huggingface_json.hpp>

#include "runner.hpp"

namespace golden {
namespace {

/// The tables' spectrum: an input of the module where the file has it, else what its flat config keys come
/// to through the config reader.
spectrum spectrum_of(const golden_case& c) {
    if (c.has_input("inv_freq"))
        return spectrum::from_omega(c.input("inv_freq").values, c.number("attention_factor", 1));
    json rope = json::object();
    for (const auto& [key, value] : c.config().items())
        if (key == "rope_type" || key == "rope_theta" || key == "factor" || key == "attention_factor" ||
            key == "original_max_position_embeddings" || key == "short_factor" || key == "long_factor")
            rope[key] = value;
    if (rope.value("rope_type", "") != "yarn" && rope.value("rope_type", "") != "longrope")
        rope.erase("attention_factor");  // 1 where the scaling has none
    const auto model = make_model_schemes(from_huggingface({{"model_type", "llama"},
                                                            {"num_hidden_layers", 1},
                                                            {"head_dim", c.integer("head_dim")},
                                                            {"rope_parameters", rope}},
                                                           {.keys = strictness::lenient}));
    return model[0].spectrum_for(static_cast<std::int64_t>(max_abs(c.input("positions").values)) + 1);
}

template <class T>
phase_shift::parameters<T> module_of(const golden_case& c, const std::string& of) {
    const auto up = c.input<T>(of + "_up");
    return {.heads = up.extent(0),
            .head_dim = up.extent(1),
            .up = up.values,
            .down = c.input<T>(of + "_down").values};
}

void phase_shift_calibration(const golden_case& c, results& out) {
    const auto where = positions_of(c, c.shape_of("q", c.order()));
    const spectrum s = spectrum_of(c);
    const double scale = std::max(max_abs(c.input("q").values), max_abs(c.input("k").values));
    const auto run = [&]<class T>(T) {
        for (const std::string of : {"q", "k"}) {
            auto x = c.input<T>(of);
            const auto view = view_of(x, c.order());
            phase_shift::calibrate(module_of<T>(c, of), view);
            const auto compare = [&](const std::string& name) {
                if constexpr (std::is_same_v<T, double>)
                    out.check(name, x);
                else
                    out.check_f32(name, x.shape, x.values, scale);
            };
            compare(of + "_cal");
            rotate(c.layout(), view, make_rotation_table<T>(s, where));
            compare(of + "_rot");
        }
    };
    run(double{});
    run(float{});
}

ggml::rope_mode mode_of(const golden_case& c) {
    const json mode = c.has("mode") ? c.config().at("mode") : json(0);
    if (mode.is_number()) return static_cast<ggml::rope_mode>(mode.get<int>());
    std::string word = mode.get<std::string>();
    for (char& letter : word) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    require(word.starts_with("neox") || word.starts_with("normal"),
            "mode " + word + " is not one of ggml_rope_ext");
    return word.starts_with("neox") ? ggml::rope_mode::neox : ggml::rope_mode::normal;
}

void ggml_rope_ext(const golden_case& c, results& out) {
    ggml::rope_ext p{.n_dims = c.integer("n_dims"),
                     .mode = mode_of(c),
                     .n_ctx_orig = static_cast<std::int32_t>(c.integer("n_ctx_orig", 0)),
                     .freq_base = static_cast<float>(c.number("freq_base", 1e4)),
                     .freq_scale = static_cast<float>(c.number("freq_scale", 1)),
                     .ext_factor = static_cast<float>(c.number("ext_factor", 0)),
                     .attn_factor = static_cast<float>(c.number("attn_factor", 1)),
                     .beta_fast = static_cast<float>(c.number("beta_fast", 32)),
                     .beta_slow = static_cast<float>(c.number("beta_slow", 1)),
                     .n_offs = c.integer("n_offs", 0)};
    if (c.has_input("freq_factors")) p.freq_factors = c.input<float>("freq_factors").values;
    const auto positions = c.input<std::int32_t>("positions").values;
    if (c.has_output("corr_dims")) {
        const auto bounds = ggml::make_correction_pairs(p);
        out.check("corr_dims", std::array{bounds.low, bounds.high});
    }
    const auto table = ggml::make_table<float>(p, positions);
    std::vector<float> woven;
    for (index n = 0; n < table.row_count(); ++n)
        for (index i = 0; i < table.pairs(); ++i) {
            woven.push_back(table.cos_row(n)[static_cast<std::size_t>(i)]);
            woven.push_back(table.sin_row(n)[static_cast<std::size_t>(i)]);
        }
    out.check("cos_sin_interleaved", {table.row_count(), p.n_dims}, woven);
    const auto rope = ggml::make_scheme(p);
    const auto turn = [&]<class T>(T) {
        auto x = c.input<T>("x");
        rotate(rope.read_layout, view_of(x).channel_slice(rope.first_channel, rope.rotary_dim),
               ggml::make_table<T>(p, positions));
        return x;
    };
    out.check("y", turn(double{}));
    const auto narrow = turn(float{});
    out.check_f32("y", narrow.shape, narrow.values, max_abs(c.input("x").values));
}

const registration systems[] = {
    {"PSC", phase_shift_calibration},
    {"ggml_rope_ext", ggml_rope_ext},
};

}  // namespace
}  // namespace golden
