// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Spectra from Hugging Face rope_parameters.

#include <ropewalk/schemes/model_config.hpp>

#include "runner.hpp"

namespace golden {
namespace {

/// inv_freq in f64, rounded to f32 (the reference formed it in f32: the file's tolerance says so), and
/// the magnitude.
void check_spectrum(results& out, const spectrum& s) {
    const std::vector<double> omega = s.omegas();
    out.check("inv_freq", omega);
    out.check("inv_freq_f32", std::vector<float>(omega.begin(), omega.end()));
    out.check_scalar("attention_factor", s.magnitude());
}

void plain(const golden_case& c, results& out) {
    const json& given = c.config().at("rope_parameters");
    model_config model;
    model.head_dim = c.integer("head_dim");
    rope_parameters rope;
    rope.max_context = c.number("max_position_embeddings", 0);
    rope.base = given.value("rope_theta", rope.base);
    rope.partial_rotary_factor = given.value("partial_rotary_factor", rope.partial_rotary_factor);
    check_spectrum(out, make_scheme(model, rope).spectrum_for(c.integer("seq_len", 1)));
}

const registration r{"RoPE scaling: default", plain};

}  // namespace
}  // namespace golden
