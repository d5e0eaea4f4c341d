// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/documents.hpp>

#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

namespace {
template <class I>
std::span<const I> span_of(const std::vector<I>& v) {
    return v;
}
}  // namespace

TEST_CASE("documents: each starts again, empty ones are legal", "[positions][documents]") {
    const std::vector<int> offsets{0, 3, 3, 5};
    CHECK(positions::documents(span_of(offsets)).values() == std::vector<double>{0, 1, 2, 0, 1});
    CHECK(positions::document_rows(span_of(offsets)) == std::vector<std::int64_t>{0, 1, 2, 0, 1});
    CHECK(positions::document_of_token(span_of(offsets)) == std::vector<std::int32_t>{0, 0, 0, 2, 2});
    const std::vector<int> lengths{3, 0, 2};
    CHECK(positions::offsets_of_lengths(span_of(lengths)) == std::vector<rw::index>{0, 3, 3, 5});
    const std::vector<int> none{0};
    CHECK(positions::documents(span_of(none)).tokens() == 0);
}

TEST_CASE("documents: a ragged batch goes on where each cache ends", "[positions][documents]") {
    const std::vector<std::int64_t> offsets{0, 2, 3};
    const std::vector<std::int64_t> first{100, 7};
    CHECK(positions::documents(span_of(offsets), span_of(first)).values() ==
          std::vector<double>{100, 101, 7});
}

TEST_CASE("documents: bad offsets are refused", "[positions][documents]") {
    const std::vector<int> empty, late{1, 2}, falling{0, 5, 4}, good{0, 2}, two{0, 0}, negative{-1};
    CHECK_REFUSES("documents: offsets must hold documents + 1 numbers, got 0",
                  positions::documents(span_of(empty)));
    CHECK_REFUSES("documents: offsets must start with 0, got 1", positions::documents(span_of(late)));
    CHECK_REFUSES("documents: offsets must not fall, got 4", positions::documents(span_of(falling)));
    CHECK_REFUSES("documents: first must be empty or hold one number a document, got 2",
                  positions::documents(span_of(good), span_of(two)));
    CHECK_REFUSES("documents: first must be >= 0, got -1",
                  positions::documents(span_of(good), span_of(negative)));
    CHECK_REFUSES("document_of_token: offsets must not fall, got 4",
                  positions::document_of_token(span_of(falling)));
    CHECK_REFUSES("offsets_of_lengths: lengths must be >= 0, got -1",
                  positions::offsets_of_lengths(span_of(negative)));
    // A sum past the largest index must not wrap around to negative offsets.
    constexpr auto most = std::numeric_limits<rw::index>::max();
    const std::vector<rw::index> longest{most - 5, 5}, too_long{most - 5, 6};
    CHECK(positions::offsets_of_lengths(span_of(longest)) == std::vector<rw::index>{0, most - 5, most});
    CHECK_REFUSES("offsets_of_lengths: lengths must sum to a number that index can hold, got 6",
                  positions::offsets_of_lengths(span_of(too_long)));
    const std::vector<std::uint64_t> huge{std::numeric_limits<std::uint64_t>::max()};
    CHECK_REFUSES(
        "offsets_of_lengths: lengths must sum to a number that index can hold, got 18446744073709551615",
        positions::offsets_of_lengths(span_of(huge)));
}
