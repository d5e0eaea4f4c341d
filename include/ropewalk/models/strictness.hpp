// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// strictness: whether a reader of model configs refuses or lists what it does not understand.
#pragma once

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// How strictly a config is read. strict: an unknown kind of scaling or model, a missing key, or a rope key
/// that would be silently ignored is an error that names it. lenient: defaults are used, and ignored keys are
/// listed in model_config::ignored.
enum class strictness : std::uint8_t { strict, lenient };

}  // namespace ROPEWALK_VIEW_NAMESPACE
