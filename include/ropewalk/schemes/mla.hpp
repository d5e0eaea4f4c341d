// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// DeepSeek's multi-head latent attention (MLA): its sizes, frequencies, logit scale and rotary schemes.
#pragma once

#include <cmath>

#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

namespace ROPEWALK_NAMESPACE::mla {

/// The sizes and the context scaling of DeepSeek's multi-head latent attention (MLA). Defaults: DeepSeek-V3.
/// Units:    channels and tokens.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, ModelArgs.
struct config {
    index hidden = 7168;
    index heads = 128;
    index query_rank = 1536;  ///< q_lora_rank; 0: one matrix projects queries
    index latent = 512;       ///< kv_lora_rank
    index nope_dim = 128;     ///< channels of a head that do not rotate; they come first
    index rope_dim = 64;      ///< channels that rotate; all heads share the key's
    index value_dim = 128;    ///< channels of a value
    double base = 1e4;
    double factor = 40;
    double original_context = 4096;
    double max_context = 16384;  ///< context the engine is set up for; decides whether YaRN is on
    double beta_fast = 32;
    double beta_slow = 1;
    double mscale = 1;
    double rms_epsilon = 1e-6;  ///< added under the root of the norms; with 0 a latent of zeros stays zero
};

/// The published sizes: DeepSeek-V3.
/// Source:   deepseek-ai/DeepSeek-V3 inference/configs; DeepSeek-V2 and V2-Lite config.json.
inline config deepseek_v3() { return {}; }
/// DeepSeek-V2.
inline config deepseek_v2() { return {.hidden = 5120, .mscale = 0.707}; }
/// DeepSeek-V2-Lite.
inline config deepseek_v2_lite() { return {.hidden = 2048, .heads = 16, .query_rank = 0, .mscale = 0.707}; }

/// Whether YaRN is on: only where the engine is set up for a longer context than the model was trained at.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py.
inline bool is_extended(const config& c) noexcept { return c.max_context > c.original_context; }

/// The factor on the logits: m^2 with m = 0.1 mscale ln(factor) + 1 where YaRN is on, else 1. A test with a
/// single key does not notice when it is missing, since a softmax over one key ignores it.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py, MLA.__init__.
inline double logit_scale(const config& c) noexcept {
    const double m = is_extended(c) ? frequencies::yarn_mscale(c.factor, c.mscale) : 1.0;
    return m * m;
}

}  // namespace ROPEWALK_NAMESPACE::mla

namespace ROPEWALK_NAMESPACE::detail {

/// Checks what every function of a config relies on and the frequencies do not check themselves.
inline void require_valid(const mla::config& c) {
    constexpr index most = index{1} << 30;  // products of two of them fit
    const auto sized = [](index size, index least, const char* must) {
        require(size >= least && size <= most, "mla", must, size);
    };
    sized(c.hidden, 1, "hidden must be 1 to 2^30");
    sized(c.heads, 1, "heads must be 1 to 2^30");
    sized(c.query_rank, 0, "query_rank must be 0 to 2^30");
    sized(c.latent, 1, "latent must be 1 to 2^30");
    sized(c.nope_dim, 0, "nope_dim must be 0 to 2^30");
    sized(c.value_dim, 0, "value_dim must be 0 to 2^30");
    require(c.rope_dim <= most, "mla", "rope_dim must be at most 2^30", c.rope_dim);
    const auto length = [](double tokens) { return tokens >= 0 && tokens <= 0x1p53; };  // false for NaN
    require(length(c.original_context), "mla", "original_context must be 0 to 2^53", c.original_context);
    require(length(c.max_context), "mla", "max_context must be 0 to 2^53", c.max_context);
    require(c.rms_epsilon >= 0 && std::isfinite(c.rms_epsilon), "mla", "rms_epsilon must be finite and >= 0",
            c.rms_epsilon);
    if (!mla::is_extended(c)) return;
    require(std::isfinite(c.factor) && c.factor >= 1, "mla", "factor must be >= 1", c.factor);
    require(std::isfinite(mla::logit_scale(c)), "mla", "mscale must be finite, and so the logits' factor",
            c.mscale);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::mla {

/// The frequencies of the rotated channels: plain geometric ones, or YaRN without its magnitude, which
/// DeepSeek moves into the logits.
/// Units:    radians per position.
/// Throws:   invalid_config on what geometric and yarn refuse; on a size, context or rms_epsilon that is
///           negative or NaN; and, where YaRN is on, on factor < 1 or an mscale that is not finite.
/// Accuracy: f64, 1e-15 relative.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, precompute_freqs_cis.
inline spectrum make_spectrum(const config& c) {
    detail::require_valid(c);
    if (!is_extended(c)) return frequencies::geometric({.rotary_dim = c.rope_dim, .base = c.base});
    return frequencies::yarn({.rotary_dim = c.rope_dim,
                              .base = c.base,
                              .factor = c.factor,
                              .original_context = c.original_context,
                              .beta_fast = c.beta_fast,
                              .beta_slow = c.beta_slow,
                              .attention_factor = 1.0});
}

/// The factor on q.k before the softmax: (nope_dim + rope_dim)^(-1/2) times logit_scale.
/// Source: as logit_scale.
inline double softmax_scale(const config& c) noexcept {
    return logit_scale(c) / std::sqrt(static_cast<double>(c.nope_dim + c.rope_dim));
}

/// Numbers that a token leaves in the cache of a layer: the latent and one rotated key, for all heads
/// together.
/// Source: DeepSeek-V2, section 2.1.
inline index cached_channels(const config& c) noexcept { return c.latent + c.rope_dim; }

/// The scheme: it rotates the last rope_dim channels of a query head, and the one shared key of rope_dim
/// channels (a view of exactly those channels counts as the slice). Pairs are read and written interleaved,
/// as in DeepSeek's own code.
/// Throws:   invalid_config as make_spectrum.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, apply_rotary_emb.
inline rotary_scheme make_scheme(const config& c) {
    rotary_scheme rope = make_fixed_scheme({.name = "mla",
                                            .head_dim = c.nope_dim + c.rope_dim,
                                            .first_channel = c.nope_dim,
                                            .layout = interleaved{}},
                                           make_spectrum(c));
    rope.logit_scale = logit_scale(c);
    rope.original_context = static_cast<std::int64_t>(c.original_context);
    rope.max_context = static_cast<std::int64_t>(c.max_context);
    return rope;
}

/// The same scheme as Hugging Face runs it: pairs are read interleaved and written half-split. Queries and
/// cached keys are a permutation of make_scheme's, and the scores are the same.
/// Throws:   as make_scheme.
/// Source:   huggingface/transformers models/deepseek_v3, apply_rotary_pos_emb_interleave.
inline rotary_scheme make_half_split_scheme(const config& c) {
    rotary_scheme rope = make_scheme(c);
    rope.write_layout = half_split{};
    return rope;
}

}  // namespace ROPEWALK_NAMESPACE::mla
