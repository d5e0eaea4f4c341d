// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rows of tensors of any element type as numbers of the arithmetic's type, and pieces of a workspace.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include <ropewalk/attention/tile_product.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/quantized_types.hpp>

/// Rows of the caller's tensors as numbers of the type in which arithmetic runs.
/// Source: tiles kept near the core, Dao et al. 2022.
namespace ROPEWALK_NAMESPACE::detail {

/// The number of each bit pattern of an 8-bit float.
template <int Mantissa>
inline constexpr std::array<float, 256> f8_numbers = [] {
    std::array<float, 256> numbers{};
    for (std::size_t bits = 0; bits < numbers.size(); ++bits)
        numbers[bits] = static_cast<float>(f8<Mantissa>::from_bits(static_cast<std::uint8_t>(bits)));
    return numbers;
}();

/// Converts n numbers of any element type, or codes of an 8-bit float, to T.
template <class T, int Mantissa>
void read_row(const f8<Mantissa>* from, T* to, index n) noexcept {
    for (index i = 0; i < n; ++i) to[i] = static_cast<T>(f8_numbers<Mantissa>[from[i].bits]);
}
template <class T, element_type E>
void read_row(const E* from, T* to, index n) noexcept {
    const auto* const p = reinterpret_cast<const stored_t<E>*>(from);
    index i = 0;
    if constexpr (std::is_same_v<compute_t<E>, T>) {
        constexpr index lanes = simd::lanes<T>;
        for (; i + lanes <= n; i += lanes) simd::store(to + i, simd::load(p + i));
    }
    for (; i < n; ++i) to[i] = static_cast<T>(static_cast<compute_t<E>>(p[i]));
}

/// Converts n numbers of T to any element type.
template <class T, class E>
void write_row(const T* from, E* to, index n) noexcept {
    auto* const p = reinterpret_cast<stored_t<E>*>(to);
    index i = 0;
    if constexpr (std::is_same_v<compute_t<E>, T>) {
        constexpr index lanes = simd::lanes<T>;
        for (; i + lanes <= n; i += lanes) simd::store(p + i, simd::load(from + i));
    }
    for (; i < n; ++i) p[i] = stored_t<E>(static_cast<compute_t<E>>(from[i]));
}

/// `n` rounded up to whole registers.
template <class T>
constexpr index whole_packs(index n) noexcept {
    return (n + simd::lanes<T> - 1) / simd::lanes<T> * simd::lanes<T>;
}

/// The storage type of the numbers of a row.
template <class E>
struct row_storage {
    using type = stored_t<E>;
};
template <int Mantissa>
struct row_storage<f8<Mantissa>> {
    using type = f8<Mantissa>;
};

/// Rows first .. first + count - 1 of one head: in place if possible, else copied to `copy`, each padded with
/// zeros to whole registers. `few`: a decode step, which reads every row once and in whole registers.
/// Otherwise rows that are pages apart are copied, since they would compete for a few sets of the L1 cache (8
/// heads of 128 channels in f32, 1024 tokens: 0.91 of the speed of Eigen's product if read in place).
template <class T, class E>
matrix_at<const T> tile_rows(heads_view<E> x, index batch, index head, index first, index count, bool few,
                             T* copy) noexcept {
    constexpr index page = 4096 / static_cast<index>(sizeof(T));
    if constexpr (std::is_same_v<typename row_storage<std::remove_const_t<E>>::type, T>)
        if (few ? x.channels() % simd::lanes<T> == 0 : x.strides.token % page != 0)
            return {reinterpret_cast<const T*>(x.at(batch, first, head)), x.strides.token};
    const index width = whole_packs<T>(x.channels());
    for (index j = 0; j < count; ++j) {
        T* const row = copy + j * width;
        read_row(x.at(batch, first + j, head), row, x.channels());
        for (index c = x.channels(); c < width; ++c) row[c] = T(0);
    }
    return {copy, width};
}

/// Whether every number of the rows is finite.
template <class T>
bool all_finite(matrix_at<const T> x, index rows, index channels) noexcept {
    constexpr index lanes = simd::lanes<T>;
    const simd::pack<T> limit = simd::broadcast(std::numeric_limits<T>::infinity());
    const simd::pack<T> one = simd::broadcast(T(1));
    simd::pack<T> other = simd::broadcast(T(0));
    for (index j = 0; j < rows; ++j) {
        const T* const row = x.data + j * x.stride;
        index c = 0;
        for (; c + lanes <= channels; c += lanes)
            other = simd::choose(simd::absolute(simd::load(row + c)) < limit, other, one);
        if (c < channels)
            other = simd::choose(simd::absolute(simd::load_some(row + c, channels - c)) < limit, other, one);
    }
    return lane_sum<T>(other) == 0;
}

/// A copy of the rows, padded with zeros to whole registers, with 0 for every number that is not finite.
template <class T>
matrix_at<const T> finite_rows(matrix_at<const T> x, index rows, index channels, T* copy) noexcept {
    const index width = whole_packs<T>(channels);
    for (index j = 0; j < rows; ++j)
        for (index c = 0; c < width; ++c) {
            const T value = c < channels ? x.data[j * x.stride + c] : T(0);
            copy[j * width + c] = std::abs(value) < std::numeric_limits<T>::infinity() ? value : T(0);
        }
    return {copy, width};
}

/// Cuts a caller's workspace into pieces that each start on a cache line. Without memory it only counts
/// bytes.
class workspace_cutter {
  public:
    static constexpr index line = 64;
    workspace_cutter() = default;
    explicit workspace_cutter(std::span<std::byte> memory) noexcept {
        const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
        base_ = memory.data() + (line - static_cast<index>(address % line)) % line;
    }
    /// Throws: invalid_config when the size does not fit.
    template <class T>
    T* cut(const char* who, std::initializer_list<index> counts) {
        const index count = checked_product(who, "the workspace must fit in memory, extents be >= 0", counts);
        const index bytes = (count * static_cast<index>(sizeof(T)) + line - 1) / line * line;
        require(bytes <= std::numeric_limits<index>::max() / 2 - used_, who,
                "the workspace must fit in memory, bytes", bytes);
        T* const piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += bytes;
        return piece;
    }
    /// Bytes that are enough for all cuts, at any alignment of the memory.
    index bytes() const noexcept { return used_ + line; }

  private:
    std::byte* base_ = nullptr;
    index used_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::detail
