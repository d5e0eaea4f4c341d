// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kv/append_latent.hpp>
#include <ropewalk/kv/shift_keys.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

#include "support/aligned_memory.hpp"
#include "support/catch.hpp"

namespace {
std::atomic<long> allocations{0};
void* counted(std::size_t bytes, std::size_t alignment) {
    ++allocations;
    if (void* p = support::aligned_memory(bytes, alignment)) return p;
    std::abort();
}
}  // namespace

// Not inlined: the compiler would see aligned_alloc on one side and delete on the other, and warn.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t a) {
    return counted(bytes, static_cast<std::size_t>(a));
}
// Catch2 asks without throwing; under AddressSanitizer that would come from another heap than delete's.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return counted(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t a, const std::nothrow_t&) noexcept {
    return counted(bytes, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { support::free_aligned(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
    support::free_aligned(p);
}

namespace rw = ropewalk;

TEST_CASE("hot calls allocate nothing", "[kernels][memory]") {
    const long at_start = allocations;
    std::vector<float> q(2 * 8 * 64, 1.0f), k(2 * 2 * 64, 1.0f);
    std::vector<rw::bf16> half(2 * 8 * 64, rw::bf16(1.0f));
    rw::position_table table(rw::frequencies::geometric({.rotary_dim = 64}), 16);
    const std::vector<float> ones(32, 1.0f);
    const rw::pair_matrix_table<float> matrices(ones, ones, ones, ones, 32);
    const std::vector<int> positions{3, 9}, rows{0, -1};
    const rw::head_norm<float> norm({.channels = 64});
    std::vector<float> cache(4 * 2 * 64);
    std::vector<std::int8_t> codes(cache.size());
    std::vector<float> scales(4 * 2);
    const rw::cache_shape shape{1, 4, 2, 64};
    const std::vector<int> slots{2, 0};
    const rw::append_call<float> same{.key = rw::heads_view<const float>(k.data(), 2, 2, 64),
                                      .key_cache = rw::cache_view<float>::nhd(cache.data(), shape)};
    const rw::append_call<float, std::int8_t> quantized{
        .key = same.key,
        .key_cache = rw::cache_view<std::int8_t>::nhd(codes.data(), shape),
        .key_scales = rw::cache_view<float>::nhd(scales.data(), {1, 4, 2, 1})};
    const auto plan = rw::make_append_plan(same, slots);
    CHECK(allocations > at_start);  // the counter counts

    const long before = allocations;
    rw::heads_view qv(q.data(), 2, 8, 64), kv(k.data(), 2, 2, 64);
    rw::heads_view hv(half.data(), 2, 8, 64);
    const auto at = table.rows(positions);  // within the table: checked without growing
    rw::rotate(rw::half_split{}, qv, kv, at);
    rw::rotate(rw::interleaved{}, hv, at);
    rw::rotate(rw::pair_layout::blocked_by(16), qv, at, rw::part_of{3, 1});
    rw::unrotate(rw::half_split{}, qv, kv, at);
    rw::rotate_gradient(rw::half_split{}, qv, kv, at);
    rw::rotate_into(rw::layout_slice{.read = rw::interleaved{}, .write = rw::half_split{}}, qv, hv, at);
    rw::mix_pairs(rw::half_split{}, qv, matrices.rows(rows));
    rw::normalize_and_rotate(rw::half_split{}, qv, kv, norm, norm, at);
    rw::append(rw::half_split{}, same, plan, at);
    rw::append(rw::half_split{}, quantized, plan, at);
    rw::shift_keys(rw::half_split{}, same.key_cache, plan, at);
    CHECK(allocations == before);
}
