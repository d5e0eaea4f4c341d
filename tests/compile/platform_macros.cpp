// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What <windows.h> defines beside min and max (which NOMINMAX takes back) must not reach into our headers.
// On Windows it is included itself (.ci/run mingw).

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <variant>

#include <Eigen/Dense>
#include <nlohmann/json.hpp>
#include <xsimd/xsimd.hpp>

#if defined(_WIN32)
#if !defined(NOMINMAX)  // the C++ library of MinGW defines it
#define NOMINMAX
#endif
#include <windows.h>
#else
#define far
#define near
#define small char
#define interface struct
#define IN
#define OUT
#define OPTIONAL
#define ERROR 0
#define DELETE 0x00010000L
#endif

#include <ropewalk/ropewalk.h>
#include <ropewalk/adapters.hpp>
#include <ropewalk/analysis.hpp>
#include <ropewalk/attention.hpp>
#include <ropewalk/compression.hpp>
#include <ropewalk/models/explain.hpp>
#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/gguf_file.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/models/multimodal_config.hpp>
#include <ropewalk/models/vision_towers.hpp>
#include <ropewalk/path.hpp>
#include <ropewalk/ropewalk.hpp>
