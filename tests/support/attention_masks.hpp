// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// One mask of every kind with what it means, and sizes that meet every path of the tiled core.

#include <limits>
#include <vector>

#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/attention/masks.hpp>

#include "support/attention_case.hpp"

namespace support {

/// Calls f(name, mask, rule, bias) for one mask of each kind; documents and dense pairs fit the sizes.
template <class F>
void for_each_mask(const attention_sizes& s, const F& f) {
    const rw::index first = s.keys - s.queries;
    const auto always = [](auto...) { return true; };
    f("full", rw::attention::full_mask{}, seen_pair(always), pair_bias{});
    const auto causal = [first](rw::index, rw::index, rw::index n, rw::index j) { return j <= first + n; };
    f("causal", rw::attention::causal_mask{}, seen_pair(causal), pair_bias{});
    f("causal from 3", rw::attention::causal_mask{.first_query = 3},
      seen_pair([](rw::index, rw::index, rw::index n, rw::index j) { return j <= 3 + n; }), pair_bias{});
    for (rw::index window : {1, 7, 40})
        f("window", rw::attention::causal_mask{.window = window},
          seen_pair([=](rw::index, rw::index, rw::index n, rw::index j) {
              return j <= first + n && first + n - j < window;
          }),
          pair_bias{});
    if (first >= 0)
        f("blocks", rw::attention::both(rw::attention::causal_mask{}, rw::attention::block_mask{.block = 11}),
          seen_pair([=](rw::index, rw::index, rw::index n, rw::index j) {
              return j <= first + n && (first + n) / 11 == j / 11;
          }),
          pair_bias{});
    std::vector<std::int32_t> query_documents, key_documents;
    for (rw::index i = 0; i < s.batches * s.queries; ++i) query_documents.push_back(std::int32_t(i / 9 % 4));
    for (rw::index i = 0; i < s.batches * s.keys; ++i) key_documents.push_back(std::int32_t(i / 13 % 5));
    const rw::attention::document_mask documents{query_documents, key_documents};
    const auto same = [&](rw::index b, rw::index, rw::index n, rw::index j) {
        return query_documents[std::size_t(b * s.queries + n)] == key_documents[std::size_t(b * s.keys + j)];
    };
    f("documents", documents, seen_pair(same), pair_bias{});
    f("causal documents", rw::attention::both(rw::attention::causal_mask{}, documents),
      seen_pair([&](rw::index b, rw::index h, rw::index n, rw::index j) {
          return causal(b, h, n, j) && same(b, h, n, j);
      }),
      pair_bias{});
    if (s.queries == s.keys)
        for (bool shared : {false, true}) {
            rw::attention::anchor_mask anchors{{}, shared};
            for (rw::index i = 0; i < s.queries; ++i)
                anchors.document_start.push_back(std::int32_t(i < 1 ? 0 : (i - 1) / 37 * 37 + 1));
            f("anchors", anchors, seen_pair([anchors](rw::index, rw::index, rw::index n, rw::index j) {
                  return j <= n &&
                         (j >= anchors.document_start[std::size_t(n)] || (anchors.shared_anchor && j == 0));
              }),
              pair_bias{});
        }
    std::vector<std::uint8_t> pairs;
    for (const double x : noise(s.pairs(), 5)) pairs.push_back(x > 0.2 ? 1 : 0);
    const auto at = [&](rw::index b, rw::index h, rw::index n, rw::index j) {
        return std::size_t(((b * s.heads + h) * s.queries + n) * s.keys + j);
    };
    f("dense pairs", rw::attention::dense_mask<double>{.seen_pairs = pairs},
      seen_pair(
          [&](rw::index b, rw::index h, rw::index n, rw::index j) { return pairs[at(b, h, n, j)] != 0; }),
      pair_bias{});
    std::vector<double> added = noise(s.pairs(), 6, {0, 2});
    for (std::size_t i = 0; i < added.size(); i += 3) added[i] = -std::numeric_limits<double>::infinity();
    f("causal bias",
      rw::attention::both(rw::attention::causal_mask{}, rw::attention::dense_mask<double>{.added = added}),
      seen_pair([&](rw::index b, rw::index h, rw::index n, rw::index j) {
          return causal(b, h, n, j) && added[at(b, h, n, j)] != -std::numeric_limits<double>::infinity();
      }),
      pair_bias([&](rw::index b, rw::index h, rw::index n, rw::index j) { return added[at(b, h, n, j)]; }));
}

inline const std::vector<attention_sizes> all_sizes{
    {.batches = 2, .queries = 1, .keys = 70, .heads = 8, .kv_heads = 2, .channels = 40, .value_channels = 24},
    {.batches = 1, .queries = 3, .keys = 131, .heads = 4, .kv_heads = 4, .channels = 7, .value_channels = 13},
    {.batches = 1, .queries = 9, .keys = 66, .heads = 8, .kv_heads = 1, .channels = 16, .value_channels = 33},
    {.batches = 2,
     .queries = 110,
     .keys = 110,
     .heads = 2,
     .kv_heads = 1,
     .channels = 20,
     .value_channels = 20},
    {.batches = 1, .queries = 130, .keys = 65, .heads = 2, .kv_heads = 2, .channels = 8, .value_channels = 1},
};

}  // namespace support
