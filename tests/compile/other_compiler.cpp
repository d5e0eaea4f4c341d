// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What GCC and Clang have and other compilers lack is behind a guard: the headers where no compiler is known but
// one that names AVX2 and not what comes with it. The library's own functions, so that templates are read too.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <charconv>
#include <chrono>
#include <cmath>
#include <complex>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numbers>
#include <numeric>
#include <optional>
#include <random>
#include <ranges>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <Eigen/Dense>
#include <nlohmann/json.hpp>
#include <xsimd/xsimd.hpp>

#undef __GNUC__
#undef __clang__
#if defined(__AVX2__)
#define _MSC_VER 1940
#undef __FMA__
#undef __F16C__
#undef __SSE4_1__
#undef __SSE2__
#define _M_X64 100
#endif

#include <ropewalk/adapters.hpp>
#include <ropewalk/analysis.hpp>
#include <ropewalk/attention.hpp>
#include <ropewalk/compression.hpp>
#include <ropewalk/models/explain.hpp>
#include <ropewalk/models/gguf_file.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/path.hpp>
#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

void rotate_all(const rw::rotary_scheme& rope, float* wide, rw::f16* half, rw::bf16* brain,
                rw::position_table<float>& table) {
    const auto rows = table.rows(7);
    rw::rotate(rope, rw::heads_view(wide, 1, 32, 128), rows);
    rw::rotate(rope, rw::heads_view(half, 1, 32, 128), rows);
    rw::rotate(rope, rw::heads_view(brain, 1, 32, 128), rows);
    rw::rotate(rw::interleaved{}, rw::heads_view(brain, 1, 32, 128), rows);
}
