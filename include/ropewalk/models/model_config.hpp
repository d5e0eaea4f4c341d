// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// model_config: a model's rotary embedding as plain data; make_model_schemes turns it into schemes of layers.
#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/rope_parameters.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// Dual chunk attention as a config describes it, in the numbers of dual_chunk_config.
/// Source: the config.json of Qwen2.5-1M; vllm-project/vllm rotary_embedding/dual_chunk_rope.py.
///
///     const dual_chunk chunks({.chunk_size = d.chunk_size, .local_size = d.local_size,
///                              .original_context = d.original_context});
struct dual_chunk_parameters {
    index chunk_size = 0;         ///< tokens of a chunk, including the local part
    index local_size = 0;         ///< tokens of the local part
    double original_context = 0;  ///< length in tokens from which logits are scaled up; 0: never
    bool sparse = false;          ///< whether prefill also skips keys, which does not affect rotation

    bool operator==(const dual_chunk_parameters&) const = default;
};

/// A model's rotary embedding as plain data. Read one with from_huggingface or from_gguf, take it from a
/// preset, or fill it in by hand.
struct model_config {
    std::string model_type = {};
    index layers = 1;
    index query_heads = 0;  ///< 0: unknown
    index key_heads = 0;
    index head_dim = 0;
    index first_channel = 0;    ///< where the rotary part of a head begins (MLA: after nope_dim channels)
    index rotary_channels = 0;  ///< its channels before partial_rotary_factor; 0 = head_dim
    pair_layout read_layout = {};
    pair_layout write_layout = {};
    std::vector<rope_parameters> ropes = {};  ///< one per kind of layer
    std::vector<int> rope_of_layer = {};      ///< [layers], -1 = NoPE; empty = ropes[0] everywhere
    std::vector<std::string> ignored = {};    ///< keys that a lenient reader ignored
    index indexer_dim = 0;                    ///< channels of a sparse indexer's head; 0 = no indexer
    index indexer_first_channel = 0;          ///< where its rotary part begins
    pair_layout indexer_layout = {};          ///< of the indexer's rotary part
    std::optional<dual_chunk_parameters> dual_chunk = {};  ///< absent: positions are not chunked
    /// The factor on q.k that the model's own keys give; absent: 1/sqrt(head_dim).
    std::optional<double> softmax_scale = {};
    bool rotates_output_back = false;       ///< attention's output is rotated back at the query's position
    std::vector<std::string> because = {};  ///< which rules of the model's class applied, in words
};

/// The schemes of a model's layers. Layers of one kind share one scheme, so one table serves them all.
class model_schemes {
  public:
    model_schemes() = default;
    model_schemes(std::vector<rotary_scheme> distinct, std::vector<int> scheme_of_layer)
        : distinct_(std::move(distinct)), of_layer_(std::move(scheme_of_layer)) {
        for (int s : of_layer_)
            detail::require(s >= 0 && s < static_cast<int>(distinct_.size()), "model_schemes",
                            "scheme_of_layer must name a scheme", s);
    }

    index layers() const noexcept { return static_cast<index>(of_layer_.size()); }
    /// Requires: 0 <= layer < layers().
    const rotary_scheme& operator[](index layer) const noexcept {
        ROPEWALK_EXPECT(layer >= 0 && layer < layers());
        return distinct_[static_cast<std::size_t>(of_layer_[static_cast<std::size_t>(layer)])];
    }
    /// The different schemes.
    const std::vector<rotary_scheme>& distinct() const noexcept { return distinct_; }
    /// The index in distinct() of the layer's scheme.
    int scheme_of(index layer) const noexcept { return of_layer_[static_cast<std::size_t>(layer)]; }

  private:
    std::vector<rotary_scheme> distinct_;
    std::vector<int> of_layer_;
};

namespace detail {

/// The logit_scale of a model whose factor on q.k is softmax_scale. Files round 1/sqrt(head_dim) to the digits
/// of a float, so what agrees with it to 1e-6 is exactly 1.
inline double logit_scale_of(std::optional<double> softmax_scale, index head_dim) {
    if (!softmax_scale || head_dim == 0) return 1;
    require_factor("make_model_schemes", "softmax_scale must be finite and > 0", *softmax_scale);
    const double relative = *softmax_scale * std::sqrt(static_cast<double>(head_dim));
    require_factor("make_model_schemes", "softmax_scale * sqrt(head_dim) must be finite", relative);
    return std::abs(relative - 1) < 1e-6 ? 1 : relative;
}

}  // namespace detail

/// The scheme of one kind of layer, from plain data. Everything that does not depend on the context length is
/// checked here; spectrum_for then works at every length >= 1, or throws with the reason.
/// Throws:   invalid_config naming the parameter and its value.
/// Source:   the frequencies/ header of the scaling.
inline rotary_scheme make_scheme(const model_config& config, const rope_parameters& rope) {
    constexpr const char* who = "make_model_schemes";
    rotary_scheme s;
    s.name = config.model_type;
    if (!rope.name.empty()) s.name += (s.name.empty() ? "" : " ") + rope.name;
    s.head_dim = rope.head_dim != 0 ? rope.head_dim : config.head_dim;
    s.first_channel = config.first_channel;
    detail::require(s.head_dim <= detail::longest_head, who, "head_dim must be <= 65536", s.head_dim);
    const index channels = config.rotary_channels != 0 ? config.rotary_channels : s.head_dim;
    detail::require(channels >= 1, who, "head_dim must be >= 1", channels);
    // Each is checked alone first, so that their sum cannot overflow.
    detail::require(channels <= s.head_dim, who, "rotary_channels must be <= head_dim", channels);
    detail::require(s.first_channel >= 0 && s.first_channel <= s.head_dim, who,
                    "first_channel must be in [0, head_dim]", s.first_channel);
    detail::require(s.first_channel + channels <= s.head_dim, who,
                    "first_channel + rotary_channels must be <= head_dim", s.first_channel + channels);
    s.rotary_dim = rope.scaling == rope_scaling::proportional ? channels
                   : rope.rotary_dim != 0
                       ? rope.rotary_dim
                       : frequencies::partial_rotary_dim(channels, rope.partial_rotary_factor);
    detail::require(s.rotary_dim >= 0 && s.rotary_dim <= channels && s.rotary_dim % 2 == 0, who,
                    "rotary_dim must be even and <= head_dim", s.rotary_dim);
    s.notes = rope.notes;
    s.read_layout = config.read_layout;
    s.write_layout = config.write_layout;
    detail::require(s.read_layout.fits(s.rotary_dim / 2) && s.write_layout.fits(s.rotary_dim / 2), who,
                    "rotary_dim must be a multiple of the layout's group", s.rotary_dim);
    s.logit_scale = rope.logit_scale * detail::logit_scale_of(config.softmax_scale, s.head_dim);
    s.original_context = detail::as_length(detail::original_context_of(rope));
    s.max_context = detail::longest_context_of(rope);
    s.length_dependent = rope.scaling == rope_scaling::dynamic_linear ||
                         rope.scaling == rope_scaling::dynamic_ntk ||
                         rope.scaling == rope_scaling::stepped_ntk ||
                         rope.scaling == rope_scaling::dynamic_yarn || rope.scaling == rope_scaling::longrope;
    s.frequencies = [rope, rotary_dim = s.rotary_dim](std::int64_t length) {
        return make_spectrum(rope, rotary_dim, length);
    };
    s.rotates_output_back = config.rotates_output_back;
    const spectrum first = s.spectrum_for(1);
    if (!s.length_dependent) s.frequencies = [first](std::int64_t) { return first; };
    if (config.indexer_dim == 0) return s;
    detail::require(config.indexer_dim <= detail::longest_head && config.indexer_first_channel >= 0 &&
                        config.indexer_first_channel <= config.indexer_dim - s.rotary_dim,
                    who, "indexer_dim must hold the rotary channels and be <= 65536", config.indexer_dim);
    auto indexer = std::make_shared<rotary_scheme>(s);
    indexer->name += " indexer";
    indexer->head_dim = config.indexer_dim;
    indexer->first_channel = config.indexer_first_channel;
    indexer->read_layout = indexer->write_layout = config.indexer_layout;
    indexer->logit_scale = 1;
    indexer->rotates_output_back = false;
    s.indexer = std::move(indexer);
    return s;
}

/// The schemes of all layers: one scheme per entry of `ropes` that some layer uses, and one for the NoPE
/// layers.
/// Throws:   invalid_config naming the parameter and its value.
inline model_schemes make_model_schemes(const model_config& config) {
    constexpr const char* who = "make_model_schemes";
    detail::require(config.layers >= 1 && config.layers <= 65536, who, "layers must be in [1, 65536]",
                    config.layers);
    std::vector<int> rope_of_layer = config.rope_of_layer;
    if (rope_of_layer.empty()) rope_of_layer.assign(static_cast<std::size_t>(config.layers), 0);
    detail::require_equal(who, "rope_of_layer must have one entry a layer", config.layers,
                          rope_of_layer.size());
    std::vector<rotary_scheme> distinct;
    std::vector<int> place(config.ropes.size() + 1, -1);  // of NoPE first, then of each entry of ropes
    for (int& rope : rope_of_layer) {
        detail::require(rope >= -1 && rope < static_cast<int>(config.ropes.size()), who,
                        "rope_of_layer must be -1 or name an entry of ropes", rope);
        int& at = place[static_cast<std::size_t>(rope + 1)];
        if (at < 0) {
            at = static_cast<int>(distinct.size());
            if (rope >= 0) {
                distinct.push_back(make_scheme(config, config.ropes[static_cast<std::size_t>(rope)]));
            } else {
                rotary_scheme nope;
                nope.name = config.model_type + (config.model_type.empty() ? "NoPE" : " NoPE");
                nope.head_dim = config.head_dim;
                nope.logit_scale = detail::logit_scale_of(config.softmax_scale, config.head_dim);
                nope.rotates = false;
                distinct.push_back(std::move(nope));
            }
        }
        rope = at;
    }
    return {std::move(distinct), std::move(rope_of_layer)};
}

}  // namespace ROPEWALK_NAMESPACE
