// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// TeleChat3's YaRN: YaRN's frequencies with a weaker temperature.
#pragma once

#include <cmath>

#include <ropewalk/frequencies/yarn.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// TeleChat3's temperature as a factor on q and on k: 0.07 ln(s) + 1, and 1 for s <= 1.
/// Source: vllm-project/vllm rotary_embedding/telechat3_scaling_rope.py.
inline double telechat3_mscale(double factor) { return factor <= 1 ? 1.0 : 0.07 * std::log(factor) + 1.0; }

/// TeleChat3's YaRN: YaRN's frequencies with a weaker temperature. attention_factor, mscale and
/// mscale_all_dim of the configuration are not read; attn_factor multiplies the magnitude.
/// Throws:   invalid_config as yarn.
/// Source:   vllm-project/vllm rotary_embedding/telechat3_scaling_rope.py.
inline spectrum telechat3_yarn(yarn_config config) {
    detail::require_factor("yarn", "factor must be > 0", config.factor);
    config.mscale = config.mscale_all_dim = 0;
    config.attention_factor = telechat3_mscale(config.factor);
    return yarn(config);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
