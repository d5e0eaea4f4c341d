// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <type_traits>

#include <ropewalk/core/heads_view.hpp>

namespace rw = ropewalk;

static_assert(sizeof(rw::f16) == 2 && alignof(rw::f16) == 2 && std::is_trivially_copyable_v<rw::f16>);
static_assert(sizeof(rw::bf16) == 2 && alignof(rw::bf16) == 2 && std::is_trivially_copyable_v<rw::bf16>);
// No silent arithmetic on storage.
static_assert(!std::is_convertible_v<float, rw::f16> && !std::is_convertible_v<rw::f16, float>);
static_assert(!std::is_convertible_v<rw::f16, rw::bf16> && !std::is_convertible_v<rw::bf16, rw::f16>);

template <class T, rw::storage Format, class Stored, class Compute>
constexpr bool is = rw::dtype<T>::format == Format && rw::dtype<const T>::format == Format &&
                    std::is_same_v<rw::stored_t<T>, Stored> && std::is_same_v<rw::stored_t<const T>, Stored> &&
                    std::is_same_v<rw::compute_t<T>, Compute>;
static_assert(is<double, rw::storage::f64, double, double>);
static_assert(is<float, rw::storage::f32, float, float>);
static_assert(is<rw::f16, rw::storage::f16, rw::f16, float>);
static_assert(is<rw::bf16, rw::storage::bf16, rw::bf16, float>);
// Declared, not defined: Eigen is not included here.
static_assert(is<Eigen::half, rw::storage::f16, rw::f16, float>);
static_assert(is<Eigen::bfloat16, rw::storage::bf16, rw::bf16, float>);
#if defined(__FLT16_MANT_DIG__) && (defined(__x86_64__) || defined(__clang__))
static_assert(is<_Float16, rw::storage::f16, rw::f16, float>);
#endif
#if defined(__ARM_FP16_FORMAT_IEEE)
static_assert(is<__fp16, rw::storage::f16, rw::f16, float>);
#endif
#if defined(__BFLT16_MANT_DIG__)
static_assert(is<__bf16, rw::storage::bf16, rw::bf16, float>);
#endif
#if defined(__STDCPP_FLOAT16_T__)
static_assert(is<std::float16_t, rw::storage::f16, rw::f16, float>);
#endif
#if defined(__STDCPP_BFLOAT16_T__)
static_assert(is<std::bfloat16_t, rw::storage::bf16, rw::bf16, float>);
#endif

// A type of one's own, by deriving.
struct my_half {
    unsigned short bits;
};
template <>
struct rw::dtype<my_half> : rw::dtype_of<rw::storage::f16> {};
static_assert(is<my_half, rw::storage::f16, rw::f16, float>);

// Views are plain data: they pass in registers and cross unit borders.
static_assert(std::is_trivially_copyable_v<rw::heads_view<float>>);
static_assert(std::is_convertible_v<rw::heads_view<float>, rw::heads_view<const float>>);
static_assert(!std::is_convertible_v<rw::heads_view<const float>, rw::heads_view<float>>);
