// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Part of random_structs.cpp: what handles are made of.

namespace {

void test_options(tester& t, const ropewalk_spectrum* spectrum) {
    arena m;
    using spectrum_options = ropewalk_spectrum_options;
    const fields of_spectrum = {NEEDED(spectrum_options, size, size),
                                NEEDED(spectrum_options, word, version),
                                NEEDED(spectrum_options, word, scaling),
                                NEEDED(spectrum_options, count, rotary_dim),
                                FIELD(spectrum_options, number, base),
                                FIELD(spectrum_options, number, factor),
                                FIELD(spectrum_options, number, original_context),
                                FIELD(spectrum_options, number, low_freq_factor),
                                FIELD(spectrum_options, number, high_freq_factor),
                                FIELD(spectrum_options, number, beta_fast),
                                FIELD(spectrum_options, number, beta_slow),
                                FIELD(spectrum_options, number, attention_factor),
                                FIELD(spectrum_options, pointer, frequencies),
                                FIELD(spectrum_options, pointer, pair_factors),
                                FIELD(spectrum_options, number, magnitude),
                                NEEDED(spectrum_options, count, axes),
                                FIELD(spectrum_options, pointer, axis_of_pair)};
    const auto make = [](const spectrum_options& o) {
        ropewalk_spectrum* made = nullptr;
        char text[200] = "";
        const int status = ropewalk_make_spectrum(&o, &made, text, sizeof text);
        const bool told = status == ROPEWALK_OK ? made != nullptr : made == nullptr && text[0] != 0;
        ropewalk_free_spectrum(made);
        return told ? status : 99;
    };
    // Arrays hold rotary_dim / 2 numbers: what claims more is not made.
    static const double frequencies[64] = {1, 0.5, 0.25};
    static const double factors[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    static const std::int32_t axes[64] = {0, 1, 1};
    const auto there = [](const spectrum_options& o) { return o.rotary_dim <= 128; };
    for (int scaling = ROPEWALK_UNSCALED; scaling <= ROPEWALK_NTK; ++scaling) {
        spectrum_options good = ropewalk_new_spectrum_options();
        good.scaling = scaling, good.rotary_dim = 32, good.factor = 4, good.original_context = 4096;
        good.frequencies = frequencies, good.pair_factors = factors, good.axes = 2, good.axis_of_pair = axes;
        t.run<spectrum_options>("spectrum", of_spectrum, m, good, make, {}, there);
    }

    using table_options = ropewalk_table_options;
    const fields of_table = {
        NEEDED(table_options, size, size),      NEEDED(table_options, word, version),
        NEEDED(table_options, word, dtype),     FIELD(table_options, pointer, spectrum),
        NEEDED(table_options, count, rows),     FIELD(table_options, pointer, positions),
        NEEDED(table_options, word, for_shift), NEEDED(table_options, word, reserved),
        FIELD(table_options, pointer, from),    FIELD(table_options, pointer, from_positions)};
    static const double positions[256] = {0, 1e6, -3};
    table_options good = ropewalk_new_table_options();
    good.spectrum = spectrum, good.rows = 3, good.positions = positions, good.from = spectrum;
    good.from_positions = positions;
    t.run<table_options>(
        "table", of_table, m, good,
        [](const table_options& o) {
            ropewalk_table* made = nullptr;
            const int status = ropewalk_make_table(&o, &made, nullptr, 0);
            const bool told = (status == ROPEWALK_OK) == (made != nullptr);
            ropewalk_free_table(made);
            return told ? status : 99;
        },
        {}, [](const table_options& o) { return o.rows <= 256 || o.rows > 0x7fffffff; });

    using ragged = ropewalk_ragged;
    const fields of_ragged = {NEEDED(ragged, size, size),        NEEDED(ragged, word, version),
                              NEEDED(ragged, word, reserved),    NEEDED(ragged, count, requests),
                              FIELD(ragged, pointer, offsets),   FIELD(ragged, pointer, starts),
                              FIELD(ragged, pointer, pages),     FIELD(ragged, count, pages_per_request),
                              NEEDED(ragged, count, page_tokens)};
    static const std::int64_t offsets[64] = {0, 2, 5, 5}, starts[64] = {0, 9, 3};
    static const std::int32_t pages[4096] = {3, 0, 1, 2, 5, 4};
    ragged batch = ropewalk_new_ragged();
    batch.requests = 3, batch.offsets = offsets, batch.starts = starts, batch.pages = pages;
    batch.pages_per_request = 2, batch.page_tokens = 8;
    t.run<ragged>(
        "ragged", of_ragged, m, batch,
        [](const ragged& b) {
            std::int64_t slot[5] = {-9, -9, -9, -9, -9}, position[5] = {-9, -9, -9, -9, -9};
            const int status = ropewalk_fill_slots(&b, slot, position, 5, nullptr, 0);
            const bool told =
                (status == ROPEWALK_OK) == (slot[4] != -9) && (slot[0] == -9) == (position[0] == -9);
            return told ? status : 99;
        },
        {},
        [](const ragged& b) {
            return b.requests <= 60 && (b.pages_per_request <= 60 || b.pages_per_request > one << 55);
        });

    using layer = ropewalk_layer;
    const fields of_layer = {NEEDED(layer, size, size), NEEDED(layer, word, version)};
    const char config[] =
        "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 2, \"num_hidden_layers\": "
        "1, "
        "\"max_position_embeddings\": 64}";
    ropewalk_model* model = nullptr;
    const int read = ropewalk_read_config(config, sizeof config - 1, ROPEWALK_STRICT, &model, nullptr, 0);
    if (read == ROPEWALK_OK)
        t.run<layer>(
            "layer", of_layer, m, ropewalk_new_layer(),
            [&](layer l) { return ropewalk_get_layer(model, 0, &l); }, {}, [](const layer&) { return true; });
    ropewalk_free_model(model);
    // A config cut anywhere is refused, never more.
    for (std::size_t n = 0; read == ROPEWALK_OK && n < sizeof config - 1; ++n)
        if (ropewalk_read_config(config, n, ROPEWALK_STRICT, &model, nullptr, 0) != ROPEWALK_BAD_CALL ||
            model != nullptr)
            std::printf("a config of %zu bytes was read\n", n), ++t.failures;
}

}  // namespace
