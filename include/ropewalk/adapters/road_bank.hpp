// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A bank of RoAd adapters for one layer: requests in one batch use different adapters, in one pass.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include <ropewalk/adapters/road.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>

namespace ROPEWALK_NAMESPACE::road {

/// The checked rows of one call: for every group size among the adapters, the row that each token reads.
/// Source: peft, Linear._mixed_batch_forward.
template <class T>
class bank_rows {
  public:
    bank_rows() = default;
    bank_rows(bank_rows&&) noexcept = default;
    bank_rows& operator=(bank_rows&&) noexcept = default;
    bank_rows(const bank_rows&) = delete;  // the views point into its vectors
    bank_rows& operator=(const bank_rows&) = delete;

    /// The rows of the adapters of one group size.
    struct group_rows {
        pair_layout layout;
        std::vector<std::int32_t> row_of_token;
        matrix_rows_view<T> rows;  ///< the matrices, ready for mix_pairs
    };
    /// One for each group size among the adapters.
    std::span<const group_rows> groups() const noexcept { return groups_; }

  private:
    template <class>
    friend class adapter_bank;
    std::vector<group_rows> groups_;
};

/// The adapters of one layer in a model that serves several adapters: each request of a batch names its own.
/// Adapters may differ in variant and in group size. T is double for f64 data, float otherwise.
/// Throws:   invalid_config on an unknown name or id, a name given twice, or a different number of channels.
/// Cost:     4 * sizeof(T) bytes per pair and adapter; mixing is one pass over the rows that have an adapter.
/// Source:   peft, mixed batches by adapter name; "__base__" is the layer without adapter.
///
///     road::adapter_bank<float> bank(4096, {"poet", "coder"});   // all names the model knows
///     bank.set("poet", road::make_blocks(poet));                 // this layer has no "coder": left alone
///     const auto rows = bank.rows(bank.ids_of(names), tokens_each);
///     mix_pairs(hidden, rows);                                   // hot
template <class T = float>
class adapter_bank {
  public:
    adapter_bank(index channels, std::vector<std::string> names)
        : channels_(channels), names_(std::move(names)), place_(names_.size()) {
        constexpr const char* who = "road::adapter_bank";
        detail::require(channels >= 0 && channels % 2 == 0, who, "channels must be even and >= 0", channels);
        for (std::size_t i = 0; i < names_.size(); ++i) {
            detail::require(names_[i] != base, who, "names must not hold the base's", names_[i]);
            detail::require(std::count(names_.begin(), names_.end(), names_[i]) == 1, who,
                            "names must be given once", names_[i]);
        }
    }

    static constexpr const char* base = "__base__";  ///< the name of the layer without adapter

    index channels() const noexcept { return channels_; }

    /// Sets or replaces the adapter of that name in this layer. A replaced table row is reused, so a bank
    /// grows only with its names and group sizes. Rows made before become invalid.
    /// Throws: invalid_config on the base's name or an unknown one, a different number of channels, or
    ///         malformed blocks; the bank is then unchanged.
    void set(std::string_view name, const pair_blocks& blocks) {
        const std::int32_t id = id_of(name);
        detail::require(id >= 0, "road::adapter_bank::set", "name must be an adapter's", std::string(name));
        detail::require_valid("road::adapter_bank::set", blocks);
        detail::require_equal("road::adapter_bank::set", "blocks must have the layer's channels", channels_,
                              blocks.channels());
        // Made in a copy, so that a failure leaves the bank unchanged.
        std::vector<one_group> groups = groups_;
        place own = place_[static_cast<std::size_t>(id)];
        auto found = std::find_if(groups.begin(), groups.end(),
                                  [&](const one_group& g) { return g.group == blocks.group; });
        if (found == groups.end())
            found = groups.insert(
                groups.end(), one_group{blocks.group, {}, {}, make_table<T>(std::span<const pair_blocks>())});
        const auto group = static_cast<std::int32_t>(found - groups.begin());
        if (own.group != group) {
            if (own.group >= 0) groups[static_cast<std::size_t>(own.group)].unused.push_back(own.row);
            if (found->unused.empty()) {
                found->unused.push_back(static_cast<std::int32_t>(found->blocks.size()));
                found->blocks.push_back(blocks);
            }
            own = {group, found->unused.back()};
            found->unused.pop_back();
        }
        found->blocks[static_cast<std::size_t>(own.row)] = blocks;
        found->table = make_table<T>(found->blocks);
        place_[static_cast<std::size_t>(id)] = own;
        groups_.swap(groups);
    }

    /// The id of a name; -1 for the base.
    std::int32_t id_of(std::string_view name) const {
        if (name == base) return untouched_row;
        const auto found = std::find(names_.begin(), names_.end(), name);
        detail::require(found != names_.end(), "road::adapter_bank::id_of",
                        "name must be __base__ or an adapter the model knows", std::string(name));
        return static_cast<std::int32_t>(found - names_.begin());
    }
    /// The ids of several names.
    std::vector<std::int32_t> ids_of(std::span<const std::string> names) const {
        std::vector<std::int32_t> ids;
        for (const auto& name : names) ids.push_back(id_of(name));
        return ids;
    }

    /// The rows of a batch: id_of_request [requests], each with `tokens_each` tokens. -1 and adapters that
    /// this layer lacks leave their tokens untouched. The bank must outlive the result.
    bank_rows<T> rows(std::span<const std::int32_t> id_of_request, index tokens_each = 1) const {
        constexpr const char* who = "road::adapter_bank::rows";
        detail::require(tokens_each >= 0, who, "tokens_each must be >= 0", tokens_each);
        for (auto id : id_of_request)
            detail::require(id >= untouched_row && id < static_cast<std::int32_t>(names_.size()), who,
                            "id must be -1 (base) or an adapter's", id);
        bank_rows<T> made;
        for (std::size_t g = 0; g < groups_.size(); ++g) {
            std::vector<std::int32_t> row_of_token;
            for (auto id : id_of_request) {
                std::int32_t row = untouched_row;
                if (id >= 0 && place_[static_cast<std::size_t>(id)].group == static_cast<std::int32_t>(g))
                    row = place_[static_cast<std::size_t>(id)].row;
                row_of_token.insert(row_of_token.end(), static_cast<std::size_t>(tokens_each), row);
            }
            made.groups_.push_back({pair_layout::blocked_by(groups_[g].group), std::move(row_of_token), {}});
            auto& last = made.groups_.back();
            last.rows = groups_[g].table.rows(std::span<const std::int32_t>(last.row_of_token));
        }
        return made;
    }

  private:
    struct one_group {
        index group;
        std::vector<pair_blocks> blocks;
        std::vector<std::int32_t> unused;  // rows of adapters that moved to another group
        pair_matrix_table<T> table;
    };
    struct place {
        std::int32_t group = -1, row = -1;
    };

    index channels_;
    std::vector<std::string> names_;
    std::vector<place> place_;  // of each name
    std::vector<one_group> groups_;
};

/// Transforms every token of x by its request's adapter, in place; base tokens are neither read nor written.
/// Shapes:   x [requests, tokens_each, 1, channels] as in adapter_bank::rows.
/// Returns:  as kernels/mix_pairs.
/// Cost:     as kernels/mix_pairs, once over the tokens of each group size.
/// Source:   peft, Linear._mixed_batch_forward.
template <class T>
bool mix_pairs(heads_view<T> x, const bank_rows<compute_t<T>>& rows) noexcept {
    for (const auto& group : rows.groups())
        if (group.rows.pairs > 0 && !ropewalk::mix_pairs(group.layout, x, group.rows)) return false;
    return true;
}

}  // namespace ROPEWALK_NAMESPACE::road
