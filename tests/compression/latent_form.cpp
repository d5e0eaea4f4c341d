// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_form.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
using rw::latent_form;

TEST_CASE("latent_form: the cheaper one by its multiply-adds", "[compression][mla]") {
    const auto c = rw::mla::deepseek_v3();
    CHECK(rw::cheaper_form(c, 0, 128) == latent_form::expanded);
    CHECK(rw::cheaper_form(c, 100000, 1) == latent_form::absorbed);
    CHECK(rw::cheaper_form(c, 100000, 170) == latent_form::absorbed);
    CHECK(rw::cheaper_form(c, 100000, 172) == latent_form::expanded);
    // Against a count pair by pair.
    const rw::mla::config small{
        .hidden = 4, .heads = 1, .latent = 7, .nope_dim = 3, .rope_dim = 2, .value_dim = 5};
    for (rw::index cached = 0; cached < 40; ++cached)
        for (rw::index tokens = 1; tokens < 12; ++tokens) {
            rw::index absorbed = tokens * 7 * 8, expanded = (cached + tokens) * 7 * 8;
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index j = 0; j <= cached + n; ++j) absorbed += 2 * 7 + 2, expanded += 3 + 2 + 5;
            CHECK((rw::cheaper_form(small, cached, tokens) == latent_form::expanded) ==
                  (expanded < absorbed));
        }
}

TEST_CASE("latent_form: rows of several heads a token see up to their token", "[compression][mla]") {
    for (const rw::index group : {1, 3, 8})
        for (const rw::index first : {0, 5}) {
            const rw::detail::token_rows_mask mask{group, first};
            const rw::index rows = 6 * group, keys = first + 6;
            for (rw::index from = 0; from < rows; from += 5)
                for (rw::index key = 0; key < keys; key += 4) {
                    const rw::index queries = std::min<rw::index>(5, rows - from),
                                    count = std::min<rw::index>(4, keys - key);
                    const auto seen = mask.tile({0, 0, 1, from, queries, key, count});
                    bool all = true;
                    for (rw::index r = from; r < from + queries; ++r)
                        for (rw::index j = key; j < key + count; ++j) {
                            const bool own = mask.seen(0, 0, r, j), within = j < seen.first_key + seen.keys;
                            CHECK(own == (j <= first + r / group));
                            if (own) CHECK(within);
                            all = all && (own || !within);
                        }
                    if (seen.keys > 0) CHECK(seen.complete == all);
                }
        }
}
