// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Rotation with the classic spectra: layouts, partial rotary, scalings and tensor orders.

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/presets.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "runner.hpp"

namespace golden {
namespace {

rope_scaling scaling_named(const std::string& type) {
    if (type == "su") return rope_scaling::longrope;  // the name it had first
    for (int s = 0; s <= static_cast<int>(rope_scaling::proportional); ++s)
        if (type == to_text(static_cast<rope_scaling>(s))) return static_cast<rope_scaling>(s);
    throw error("config.rope_type must be a known scaling, got \"" + type + "\"");
}

/// The file's keys; what it does not say is as `otherwise` has it, the defaults of its system.
rope_parameters parameters_of(const golden_case& c, rope_parameters otherwise) {
    rope_parameters p = std::move(otherwise);
    if (c.has("rope_type")) p.scaling = scaling_named(c.word("rope_type"));
    p.base = c.number("base", c.number("rope_theta", p.base));
    // Of a head that rotary_dim has cut already only p-RoPE takes a part.
    if (!c.has("rotary_dim") || p.scaling == rope_scaling::proportional)
        p.partial_rotary_factor = c.number("partial_rotary_factor", 1);
    if (c.has("factor")) p.factor = c.number("factor");
    if (c.has("alpha")) p.factor = c.number("alpha");
    p.original_context = c.number("original_max_position_embeddings", p.original_context);
    p.max_context = c.number("max_position_embeddings", p.max_context);
    if (c.has("attention_factor")) p.attention_factor = c.number("attention_factor");
    p.mscale = c.number("mscale", p.mscale);
    p.mscale_all_dim = c.number("mscale_all_dim", p.mscale_all_dim);
    p.attn_factor = c.number("attn_factor", p.attn_factor);
    p.beta_fast = c.number("beta_fast", p.beta_fast);
    p.beta_slow = c.number("beta_slow", p.beta_slow);
    p.truncate = c.flag("truncate", p.truncate);
    p.extrapolation_factor = c.number("extrapolation_factor", p.extrapolation_factor);
    p.low_freq_factor = c.number("low_freq_factor", p.low_freq_factor);
    p.high_freq_factor = c.number("high_freq_factor", p.high_freq_factor);
    if (c.has("short_factor")) p.short_factors = c.numbers("short_factor");
    if (c.has("long_factor")) p.long_factors = c.numbers("long_factor");
    const frequencies::llama3_config llama3;
    if (p.scaling == rope_scaling::llama3) {
        p.factor = p.factor.value_or(llama3.factor);
        if (p.original_context == 0) p.original_context = llama3.original_context;
    }
    return p;
}

/// q and k (when the file has one) turned at the given positions through the everyday call.
void rotate_case(const golden_case& c, results& out, const rope_parameters& rope, const position_ids& where,
                 pair_layout layout = half_split{}) {
    model_config model;
    model.head_dim = c.shape_of("q").channels;
    model.rotary_channels = c.integer("rotary_dim", model.head_dim);
    const bool named = c.has("layout_in") || c.has("pair_layout") || c.has("layout");
    model.read_layout = named ? c.layout("layout_in") : layout;
    model.write_layout = c.has("layout_out") ? c.layout("layout_out") : model.read_layout;
    const rotary_scheme scheme = make_scheme(model, rope);
    const heads_shape queries = c.shape_of("q");
    for (const char* name : {"q", "k"}) {
        if (!c.has_input(name)) continue;
        const heads_shape shape = c.shape_of(name);
        require(shape.channels == c.integer("head_dim", model.head_dim) && shape.channels == model.head_dim,
                std::string(name) + " must be head_dim wide");
        require(shape.batches == queries.batches && shape.tokens == queries.tokens,
                std::string(name) + " must have the tokens of q");
        require(shape.batches * shape.tokens == where.tokens(),
                std::string(name) + " must have a position a token");
    }
    double last = 0;  // length-dependent scalings see the longest context in use
    for (double p : where.values()) last = std::max(last, p);
    spectrum s = scheme.spectrum_for(c.integer("seq_len", static_cast<index>(last) + 1));
    if (rope.attention_factor) s = s.with_magnitude(*rope.attention_factor);

    const auto turn = [&]<class T>(heads_view<T> q, auto... k) {
        rotate(scheme, q, k..., make_rotation_table<T>(s, where));
    };
    if (c.has_input("k")) {
        rotate_both(c, out, {"q", "k"}, turn);
    } else {
        rotate_both(c, out, {"q"}, turn);
    }
    out.check("inv_freq", s.omegas());
    out.check_scalar("attention_factor", s.magnitude());
}

void rotation(const golden_case& c, results& out) {
    rotate_case(c, out, parameters_of(c, {}), positions_of(c, c.shape_of("q")));
}

void meta_llama3(const golden_case& c, results& out) {
    const auto preset = presets::llama31_parameters();
    rotate_case(c, out, parameters_of(c, preset), positions_of(c, c.shape_of("q")),
                presets::llama31_8b(weights::meta).read_layout);
}

void gpt_oss(const golden_case& c, results& out) {
    const heads_shape shape = c.shape_of("q");
    position_ids where;  // 0 .. n-1 in every batch
    for (index b = 0; b < shape.batches; ++b) where.append(text_run{shape.tokens});
    rotate_case(c, out, parameters_of(c, presets::gpt_oss_parameters()), where,
                presets::gpt_oss_20b(weights::hugging_face).read_layout);
}

const registration r1{"RoPE rotation", rotation};
const registration r2{"RoPE rotation (Meta Llama-3.1 reference)", meta_llama3};
const registration r3{"RoPE rotation (gpt-oss YaRN untruncated)", gpt_oss};

}  // namespace
}  // namespace golden
