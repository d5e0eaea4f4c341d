// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// PSC's calibration before the rotation, and ggml's own arithmetic.

#include <algorithm>
#include <cctype>

#include <ropewalk/adapters/phase_shift.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/schemes/ggml.hpp>

#include "runner.hpp"

namespace golden {
namespace {

/// What the config's flat keys come to through the config reader, over `channels` of a head.
spectrum configured_spectrum(const golden_case& c, index channels) {
    json text = {{"model_type", "llama"}, {"num_hidden_layers", 1}, {"head_dim", channels}};
    if (c.has("max_position_embeddings"))
        text["max_position_embeddings"] = c.config().at("max_position_embeddings");
    json& rope = text["rope_parameters"] = json::object();
    for (const auto& [key, value] : c.config().items())
        if (key.find("layout") == std::string::npos && key.find("order") == std::string::npos &&
            key.find("head") == std::string::npos && key != "max_position_embeddings")
            rope[key] = value;
    const auto model = make_model_schemes(from_huggingface(text, {.keys = strictness::lenient}));
    double last = 0;
    for (double p : c.input("positions").values) last = std::max(last, p);
    return model[0].spectrum_for(static_cast<std::int64_t>(last) + 1);
}

/// The tables' spectrum: frequencies that are an input of the module where the file has it, else what the
/// config comes to. The magnitude is the config's, else what its scaling makes of it.
spectrum spectrum_of(const golden_case& c) {
    spectrum s;
    if (c.has_input("inv_freq")) {
        const auto omega = c.input("inv_freq").values;
        const std::string type = c.word("rope_type", c.word("type", "default"));
        const bool has_magnitude = type == "yarn" || type == "longrope" || type == "su";
        s = spectrum::from_omega(omega);
        if (has_magnitude && !c.has("attention_factor"))
            s = s.with_magnitude(configured_spectrum(c, 2 * s.pairs()).magnitude());
    } else {
        s = configured_spectrum(c, c.integer("head_dim"));
    }
    return c.has("attention_factor") ? s.with_magnitude(c.number("attention_factor")) : s;
}

/// [head, in, out], as many heads as x has.
template <class T>
phase_shift::parameters<T> module_of(const golden_case& c, const std::string& of, const heads_shape& x) {
    require(c.word("weights_order", "head,in,out") == "head,in,out",
            "weights_order must be head,in,out, got " + c.word("weights_order", ""));
    for (const char* matrix : {"_up", "_down"})
        require(c.extents_of(of + matrix) == shape_type{x.heads, x.channels, x.channels},
                of + matrix + " must be [heads, head_dim, head_dim] of " + of);
    return {.heads = x.heads,
            .head_dim = x.channels,
            .up = c.input<T>(of + "_up").values,
            .down = c.input<T>(of + "_down").values};
}

void phase_shift_calibration(const golden_case& c, results& out) {
    const heads_shape queries = c.shape_of("q", c.order());
    const auto where = positions_of(c, queries);
    const spectrum s = spectrum_of(c);
    for (const std::string of : {"q", "k"}) {
        const heads_shape x = c.shape_of(of, c.order());
        require(x.channels == c.integer("head_dim", x.channels), of + " must be head_dim wide");
        require(x.heads == c.integer("heads_" + of, x.heads), of + " must have heads_" + of + " heads");
        require(x.batches == queries.batches && x.tokens == queries.tokens,
                of + " must have the tokens of q");
        require(2 * s.pairs() <= x.channels, "inv_freq must have no more pairs than " + of);
    }
    require(c.layout().fits(s.pairs()), "layout must fit the pairs of inv_freq");
    const double scale = std::max(max_abs(c.input("q").values), max_abs(c.input("k").values));
    const auto run = [&]<class T>(T) {
        for (const std::string of : {"q", "k"}) {
            auto x = c.input<T>(of);
            const auto view = view_of(x, c.order());
            phase_shift::calibrate(module_of<T>(c, of, view.shape), view);
            const auto compare = [&](const std::string& name) {
                if constexpr (std::is_same_v<T, double>)
                    out.check(name, x);
                else
                    out.check_f32(name, x.shape, x.values, scale);
            };
            compare(of + "_cal");
            // All channels are calibrated, the first ones turn.
            rotate(c.layout(), view.channel_slice(0, 2 * s.pairs()), make_rotation_table<T>(s, where));
            compare(of + "_rot");
        }
    };
    run(double{});
    run(float{});
}

/// 0 or 2, NORMAL or NORM, NEOX, with or without GGML_ROPE_TYPE_ before and a word of explanation behind.
ggml::rope_mode mode_of(const golden_case& c) {
    const json mode = c.has("mode") ? c.config().at("mode") : json(static_cast<int>(ggml::rope_ext{}.mode));
    if (mode.is_number()) return static_cast<ggml::rope_mode>(mode.get<int>());
    require(mode.is_string(), "config.mode must be a number or a name");
    std::string word = mode.get<std::string>();
    for (char& letter : word) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    const std::string prefix = "ggml_rope_type_";
    if (word.starts_with(prefix)) word.erase(0, prefix.size());
    const std::pair<const char*, ggml::rope_mode> modes[] = {{"neox", ggml::rope_mode::neox},
                                                             {"norm", ggml::rope_mode::normal},
                                                             {"mrope", ggml::rope_mode::mrope},
                                                             {"vision", ggml::rope_mode::vision},
                                                             {"imrope", ggml::rope_mode::imrope}};
    for (const auto& [name, value] : modes)
        if (word.starts_with(name)) return value;
    throw error("mode " + word + " is not one of ggml's");
}

void ggml_rope_ext(const golden_case& c, results& out) {
    ggml::rope_ext p{.n_dims = c.integer("n_dims"), .mode = mode_of(c)};
    const auto narrow_number = [&c](const char* key, float& value) {
        value = static_cast<float>(c.number(key, static_cast<double>(value)));
    };
    narrow_number("freq_base", p.freq_base);
    narrow_number("freq_scale", p.freq_scale);
    narrow_number("ext_factor", p.ext_factor);
    narrow_number("attn_factor", p.attn_factor);
    narrow_number("beta_fast", p.beta_fast);
    narrow_number("beta_slow", p.beta_slow);
    p.n_offs = c.integer("n_offs", p.n_offs);
    p.n_ctx_orig = static_cast<std::int32_t>(c.integer("n_ctx_orig", p.n_ctx_orig));
    if (c.has("sections")) {
        const auto sections = c.integers("sections");
        require(sections.size() <= 4, "config.sections must be at most four numbers");
        std::copy(sections.begin(), sections.end(), p.sections.begin());
    }
    p.read = ggml::reading::literal;
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
    const heads_shape shape = c.shape_of("x");
    require(shape.channels == c.integer("head_dim", shape.channels) && shape.channels >= rope.head_dim,
            "x must be head_dim wide, n_offs + n_dims or more");
    require(shape.batches * shape.tokens == static_cast<index>(positions.size()),
            "positions must name one position a token of x");
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
