// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// How a reader takes a config. Strict: an unknown kind of scaling or model, a missing key, or a rope key
/// that would be silently ignored is an error that names it. Lenient: defaults are taken, and what was
/// passed over is listed in model_config::ignored.
enum class strictness : std::uint8_t { strict, lenient };

}  // namespace ROPEWALK_VIEW_NAMESPACE
