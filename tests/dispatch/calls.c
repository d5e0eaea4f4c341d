// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A C engine's calls: rotation in place, out of place, on the fly and with its norm; batches of requests;
// configs.
#include "layer.h"

static ropewalk_normalize_call normalization(float* x, ptrdiff_t count, ropewalk_rows rows) {
    ropewalk_normalize_call call = ropewalk_new_normalize_call();
    call.dtype = ROPEWALK_F32;
    call.layout = ROPEWALK_HALF_SPLIT;
    call.tokens = tokens;
    call.q = heads(x, count);
    call.rows = rows;
    return call;
}

static void test_calls(ropewalk_rows rows) {
    float plain[tokens * q_heads * channels], other[tokens * q_heads * channels];
    char text[200] = "";
    memcpy(plain, q, sizeof plain);
    ropewalk_rotate_call rotate = rotation(plain, q_heads, rows);
    check(ropewalk_rotate(&rotate) == ROPEWALK_OK, "rotate");

    // Out of place, and back in the other direction and by one thread of three after the other.
    ropewalk_into_call into = ropewalk_new_into_call();
    into.from_dtype = ROPEWALK_F32;
    into.layout = ROPEWALK_HALF_SPLIT;
    into.tokens = tokens;
    into.from = heads(q, q_heads);
    into.to = heads(other, q_heads);
    into.rows = rows;
    check(ropewalk_explain_rotate_into(&into, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_rotate_into(&into) == ROPEWALK_OK, "rotate_into");
    check(distance(plain, other, tokens * q_heads * channels) == 0, "rotate_into is rotate elsewhere");
    into.direction = ROPEWALK_UNROTATE;
    into.from = into.to;
    into.parts = 3;
    for (into.part = 0; into.part < 3; ++into.part)
        check(ropewalk_rotate_into(&into) == ROPEWALK_OK, "a part");
    check(distance(q, other, tokens * q_heads * channels) < 1e-6, "and back");
    into.part = 0;
    into.from = heads(q + 1, q_heads);
    into.to = heads(q, q_heads);
    check(ropewalk_rotate_into(&into) == ROPEWALK_BAD_CALL, "a source that overlaps its target");
    uint16_t halves[tokens * q_heads * channels];
    into = ropewalk_new_into_call();
    into.from_dtype = ROPEWALK_F32;
    into.to_dtype = ROPEWALK_BF16;
    into.layout = ROPEWALK_HALF_SPLIT;
    into.write_layout = ROPEWALK_INTERLEAVED;
    into.tokens = tokens;
    into.from = heads(q, q_heads);
    into.to = into.from;
    into.to.data = halves;
    into.rows = rows;
    check(ropewalk_rotate_into(&into) == ROPEWALK_OK, "into bf16 and another layout");
    for (int i = 0; i < tokens * q_heads * pairs; ++i) {
        const float* head = plain + i / pairs * channels;
        const uint16_t* half = halves + i / pairs * channels + i % pairs * 2;
        check(fabsf(half_to_float(half[0], ROPEWALK_BF16) - head[i % pairs]) < 4e-3f &&
                  fabsf(half_to_float(half[1], ROPEWALK_BF16) - head[i % pairs + pairs]) < 4e-3f,
              "a pair in bf16");
    }

    // On the fly: the positions themselves, of every type.
    const int64_t wide[tokens] = {70, 71, 72, 1000000, 74};
    const float floats[tokens] = {70, 71, 72, 1000000, 74};
    const double doubles[tokens] = {70, 71, 72, 1000000, 74};
    const void* arrays[] = {positions, wide, floats, doubles};
    for (int i = 0; i < 4; ++i) {
        memcpy(other, q, sizeof other);
        rotate = rotation(other, q_heads, ropewalk_rows_on_the_fly(spectrum, positions, tokens));
        rotate.rows.positions = arrays[i];
        rotate.rows.position_type = ROPEWALK_POSITIONS_I32 + i;
        check(ropewalk_explain_rotate(&rotate, text, sizeof text) == ROPEWALK_OK, text);
        check(ropewalk_rotate(&rotate) == ROPEWALK_OK, "rotate on the fly");
        check(distance(plain, other, tokens * q_heads * channels) < 1e-6, "on the fly");
    }
    rotate.rows.position_type = 5;
    check(ropewalk_rotate(&rotate) == ROPEWALK_BAD_CALL, "a position type that is none");
    rotate.rows.position_type = ROPEWALK_POSITIONS_F64;
    rotate.rows.row_count = tokens - 1;
    check(ropewalk_rotate(&rotate) == ROPEWALK_BAD_CALL, "too few positions");

    // Norm, then rotation.
    float weight[channels];
    for (int c = 0; c < channels; ++c) weight[c] = 1 + 0.01f * (float)c;
    memcpy(other, q, sizeof other);
    ropewalk_normalize_call norm = normalization(other, q_heads, rows);
    norm.q_norm.weight = weight;
    check(ropewalk_explain_normalize_and_rotate(&norm, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_normalize_and_rotate(&norm) == ROPEWALK_OK, "normalize_and_rotate");
    memcpy(plain, q, sizeof plain);
    for (int h = 0; h < tokens * q_heads; ++h) {
        double sum = 0;
        for (int c = 0; c < channels; ++c)
            sum += (double)plain[h * channels + c] * (double)plain[h * channels + c];
        for (int c = 0; c < channels; ++c)
            plain[h * channels + c] *= weight[c] / (float)sqrt(sum / channels + 1e-6);
    }
    rotate = rotation(plain, q_heads, rows);
    check(ropewalk_rotate(&rotate) == ROPEWALK_OK, "rotate");
    check(distance(plain, other, tokens * q_heads * channels) < 2e-6, "the norm before the rotation");
    norm.q_norm.kind = ROPEWALK_NO_NORM;
    check(ropewalk_normalize_and_rotate(&norm) == ROPEWALK_BAD_CALL, "no norm");
    norm.q_norm.kind = ROPEWALK_RMS_NORM;
    norm.q_norm.weight = NULL;
    check(ropewalk_normalize_and_rotate(&norm) == ROPEWALK_BAD_CALL, "no weights");
}

/// A call of every kind with these rows on data that are not these.
typedef struct rows_test {
    ropewalk_rows rows;
    int dtype, channels, status;
    const char* must;  ///< the beginning of the reason
} rows_test;
static void test_rows(rows_test t) {
    static double before[tokens * q_heads * channels], data[tokens * q_heads * channels],
        target[tokens * q_heads * channels];
    static double weight[channels];
    char text[200] = "";
    for (int i = 0; i < tokens * q_heads * channels; ++i) before[i] = 0.5 + 0.001 * i;
    memcpy(data, before, sizeof data);
    memset(target, 0, sizeof target);
    for (int c = 0; c < channels; ++c) weight[c] = 1;
    ropewalk_tensor x = heads(NULL, q_heads);
    x.data = data;
    ropewalk_rotate_call rotate = rotation(NULL, q_heads, t.rows);
    rotate.dtype = t.dtype;
    rotate.channels = t.channels;
    rotate.q = x;
    ropewalk_into_call into = ropewalk_new_into_call();
    into.from_dtype = t.dtype;
    into.layout = ROPEWALK_HALF_SPLIT;
    into.tokens = tokens;
    into.channels = t.channels;
    into.from = into.to = x;
    into.to.data = target;
    into.rows = t.rows;
    ropewalk_normalize_call norm = ropewalk_new_normalize_call();
    norm.dtype = t.dtype;
    norm.layout = ROPEWALK_HALF_SPLIT;
    norm.tokens = tokens;
    norm.channels = t.channels;
    norm.q = x;
    norm.q_norm.weight = weight;
    norm.rows = t.rows;
    const char* names[] = {"rotate", "unrotate", "gradient", "rotate_into", "normalize_and_rotate"};
    for (int i = 0; i < 5; ++i) {
        rotate.direction = i < 3 ? i : 0;
        const int said = i < 3    ? ropewalk_explain_rotate(&rotate, text, sizeof text)
                         : i == 3 ? ropewalk_explain_rotate_into(&into, text, sizeof text)
                                  : ropewalk_explain_normalize_and_rotate(&norm, text, sizeof text);
        const int status = i < 3    ? ropewalk_rotate(&rotate)
                           : i == 3 ? ropewalk_rotate_into(&into)
                                    : ropewalk_normalize_and_rotate(&norm);
        const int begins = strncmp(text, t.must, strlen(t.must)) == 0 &&
                           (status == ROPEWALK_OK || strcmp(text, misfit()) == 0);
        if (said != t.status || status != t.status || !begins) {
            printf("%s: wanted %d (%s), got %d, explained %d (%s)\n", names[i], t.status, t.must, status,
                   said, text);
            ++failures;
        }
        if (status != ROPEWALK_OK || (t.rows.pairs == 0 && i < 4))
            check(memcmp(data, before, sizeof data) == 0, names[i]);
        if (status != ROPEWALK_OK) check(target[0] == 0, names[i]);
        memcpy(data, before, sizeof data);
    }
}
/// Rows that a call cannot mean: cos and sin of the other type, and rows that were forgotten.
static void test_stated_rows(ropewalk_rows rows) {
    const char* fits = "fits";
    const char* type = "cos and sin must be of ROPEWALK_F64 for data of ROPEWALK_F64, else of ROPEWALK_F32";
    const char* forgotten = "rows must have pairs, or be those of ropewalk_no_rotation()";
    static const int32_t in_order[tokens] = {0, 1, 2, 3, 4};
    char text[200] = "";
    ropewalk_table_options o = ropewalk_new_table_options();
    ropewalk_table* doubles = NULL;
    o.spectrum = spectrum;
    o.rows = tokens;
    o.dtype = ROPEWALK_F64;
    check(ropewalk_make_table(&o, &doubles, text, sizeof text) == ROPEWALK_OK, text);
    ropewalk_rows wide = ropewalk_table_rows(doubles);
    check(rows.dtype == ROPEWALK_F32 && wide.dtype == ROPEWALK_F64, "the dtype of a table's rows");
    for (int indexed = 0; indexed < 2; ++indexed) {
        if (indexed)
            rows.row_of_token = wide.row_of_token = in_order, rows.row_count = wide.row_count = tokens;
        for (int dtype = ROPEWALK_F64; dtype <= ROPEWALK_BF16; ++dtype) {
            const int is_double = dtype == ROPEWALK_F64;
            test_rows((rows_test){rows, dtype, channels, is_double ? ROPEWALK_BAD_CALL : ROPEWALK_OK,
                                  is_double ? type : fits});
            test_rows((rows_test){wide, dtype, channels, is_double ? ROPEWALK_OK : ROPEWALK_BAD_CALL,
                                  is_double ? fits : type});
        }
    }
    ropewalk_rows unstated = wide;
    unstated.dtype = 0;
    test_rows((rows_test){unstated, ROPEWALK_F64, channels, ROPEWALK_OK, fits});
    unstated.dtype = ROPEWALK_F16;
    test_rows((rows_test){unstated, ROPEWALK_F16, channels, ROPEWALK_BAD_CALL, "dtype of the rows must be"});
    unstated.dtype = ROPEWALK_NO_ROTATION;
    test_rows(
        (rows_test){unstated, ROPEWALK_F64, channels, ROPEWALK_BAD_CALL, "pairs must be 0 where dtype"});
    ropewalk_free_table(doubles);

    ropewalk_rows zeros;
    memset(&zeros, 0, sizeof zeros);
    ropewalk_rows without_pairs = rows;
    without_pairs.pairs = 0;
    const ropewalk_rows none[] = {zeros, ropewalk_new_rotate_call().rows, ropewalk_table_rows(NULL),
                                  ropewalk_rows_on_the_fly(NULL, positions, tokens), without_pairs};
    for (int i = 0; i < 5; ++i)
        for (int dtype = ROPEWALK_F64; dtype <= ROPEWALK_BF16; ++dtype)
            for (int given = 0; given < 2; ++given)
                test_rows((rows_test){none[i], dtype, given ? channels : 0, ROPEWALK_BAD_CALL, forgotten});
    test_rows((rows_test){ropewalk_no_rotation(), ROPEWALK_F32, channels, ROPEWALK_OK, fits});
    test_rows((rows_test){ropewalk_no_rotation(), ROPEWALK_F32, 0, ROPEWALK_BAD_CALL,
                          "channels must be given where nothing rotates"});
    ropewalk_rotate_call empty = rotation(q, q_heads, zeros);
    empty.tokens = 0;
    check(ropewalk_rotate(&empty) == ROPEWALK_OK, "a call without tokens");
}

static void test_ragged(void) {
    const int64_t offsets[] = {0, 2, 2, 5}, starts[] = {3, 0, 7};
    const int32_t page_table[] = {6, 2, 0, 0, 1, 5};
    int64_t slot[5], position[5];
    char text[200] = "";
    ropewalk_ragged batch = ropewalk_new_ragged();
    batch.requests = 3;
    batch.offsets = offsets;
    batch.starts = starts;
    batch.pages = page_table;
    batch.pages_per_request = 2;
    batch.page_tokens = 4;
    check(ropewalk_fill_slots(&batch, slot, position, 5, text, sizeof text) == ROPEWALK_BAD_CALL,
          "past its pages");
    batch.page_tokens = 16;
    check(ropewalk_fill_slots(&batch, slot, position, 5, text, sizeof text) == ROPEWALK_OK, text);
    const int64_t wanted_slots[] = {99, 100, 23, 24, 25}, wanted[] = {3, 4, 7, 8, 9};
    check(memcmp(slot, wanted_slots, sizeof slot) == 0 && memcmp(position, wanted, sizeof position) == 0,
          "slots and positions of a ragged batch");
    check(ropewalk_fill_slots(&batch, slot, NULL, 4, text, sizeof text) == ROPEWALK_BAD_CALL,
          "too few tokens");
    batch.pages = NULL;
    check(ropewalk_fill_slots(&batch, slot, NULL, 5, text, sizeof text) == ROPEWALK_OK && slot[2] == 39,
          text);
    batch.version = 9;
    check(ropewalk_fill_slots(&batch, slot, NULL, 5, text, sizeof text) == ROPEWALK_BAD_CALL, "version");
    check(ropewalk_fill_slots(NULL, slot, NULL, 5, text, sizeof text) == ROPEWALK_BAD_CALL, "no batch");
}

static void test_model(void) {
    const char config[] =
        "{\"model_type\": \"qwen2\", \"hidden_size\": 256, \"num_attention_heads\": 4, "
        "\"num_key_value_heads\": 2, "
        "\"num_hidden_layers\": 3, \"max_position_embeddings\": 4096, \"rope_theta\": 1000000.0}";
    char text[2000] = "";
    ropewalk_model* model = NULL;
    const int status =
        ropewalk_read_config(config, strlen(config), ROPEWALK_STRICT, &model, text, sizeof text);
    if (status == ROPEWALK_NOT_BUILT) {
        check(model == NULL, "a model of a build that reads none");
        printf("configs: skipped, %s\n", text);
        return;
    }
    check(status == ROPEWALK_OK && ropewalk_layers(model) == 3, text);
    ropewalk_layer layer = ropewalk_new_layer();
    check(ropewalk_get_layer(model, 2, &layer) == ROPEWALK_OK && layer.rotates && layer.head_dim == 64 &&
              layer.rotary_dim == 64 && layer.layout == ROPEWALK_HALF_SPLIT && layer.max_context == 4096,
          "what a layer does");
    check(ropewalk_get_layer(model, 3, &layer) == ROPEWALK_BAD_CALL, "a fourth layer of three");
    layer.size = 1;
    check(ropewalk_get_layer(model, 0, &layer) == ROPEWALK_BAD_CALL, "a layer of another size");
    size_t needed = 0;
    check(ropewalk_describe_layer(model, 0, text, sizeof text, &needed) == ROPEWALK_OK &&
              needed == strlen(text) + 1 && strstr(text, "half_split") != NULL,
          text);
    ropewalk_spectrum* of_layer = NULL;
    double omega[32];
    check(ropewalk_make_layer_spectrum(model, 0, 4096, &of_layer, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_get_frequencies(of_layer, omega, 32) == 32 && fabs(omega[16] - 1e-3) < 1e-15,
          "its frequencies");
    ropewalk_free_spectrum(of_layer);
    check(ropewalk_make_layer_spectrum(model, 0, 0, &of_layer, text, sizeof text) == ROPEWALK_BAD_CALL &&
              of_layer == NULL && strstr(text, "context_length") != NULL,
          text);
    ropewalk_free_model(model);
    check(ropewalk_read_config("{\"rope_theta\": [", 16, ROPEWALK_STRICT, &model, text, sizeof text) ==
                  ROPEWALK_BAD_CALL &&
              model == NULL,
          "half a config");
    check(ropewalk_read_config(NULL, 3, ROPEWALK_STRICT, &model, text, sizeof text) == ROPEWALK_BAD_CALL,
          "no config");
    check(ropewalk_read_config(config, strlen(config), 2, &model, text, sizeof text) == ROPEWALK_BAD_CALL,
          "strictness");
    check(ropewalk_read_gguf("GGUF", 4, ROPEWALK_STRICT, &model, text, sizeof text) == ROPEWALK_BAD_CALL,
          "half a file");
    check(ropewalk_layers(NULL) == 0, "layers of no model");
    ropewalk_free_model(NULL);
}

/// Queries without heads whose norm would be over all heads of a token say nothing of how the keys are cut into parts.
static void test_norm_of_nothing(ropewalk_rows rows) {
    float weight[channels], whole[tokens * k_heads * channels], parted[tokens * k_heads * channels];
    char text[200] = "";
    for (int c = 0; c < channels; ++c) weight[c] = 1 + 0.01f * (float)c;
    ropewalk_normalize_call norm = normalization(q, 0, rows);
    norm.q_norm.weight = norm.k_norm.weight = weight;
    norm.q_norm.extent = ROPEWALK_NORM_TOKEN;
    norm.k = heads(whole, k_heads);
    memcpy(whole, k, sizeof whole);
    check(ropewalk_normalize_and_rotate(&norm) == ROPEWALK_OK, "keys alone");
    const ropewalk_rows ways[] = {rows, ropewalk_rows_on_the_fly(spectrum, positions, tokens)};
    for (int way = 0; way < 2; ++way)
        for (int parts = 1; parts <= 3 * tokens; ++parts) {
            memcpy(parted, k, sizeof parted);
            norm.rows = ways[way], norm.k = heads(parted, k_heads), norm.parts = parts;
            for (norm.part = 0; norm.part < parts; ++norm.part) {
                check(ropewalk_explain_normalize_and_rotate(&norm, text, sizeof text) == ROPEWALK_OK, text);
                check(ropewalk_normalize_and_rotate(&norm) == ROPEWALK_OK, "a part of the keys");
            }
            check(distance(whole, parted, tokens * k_heads * channels) < 2e-6,
                  "keys in parts, queries without heads");
        }
}

/// A reason says which field of the call it is about, and a look at the call says the same.
static void names_field(const char* name, int status, int explained, const char* text) {
    check(status == ROPEWALK_BAD_CALL && explained == ROPEWALK_BAD_CALL, name);
    check(strncmp(misfit(), name, strlen(name)) == 0 && misfit()[strlen(name)] == ':', name);
    check(strcmp(text, misfit()) == 0, text);
}
static void test_names(ropewalk_rows rows) {
    static float x[tokens * q_heads * channels], y[tokens * q_heads * channels];
    char text[200];
    const ptrdiff_t wrong[] = {1, PTRDIFF_MAX};  // heads that overlap, and a stride that no memory has
    for (int i = 0; i < 2; ++i) {
        ropewalk_rotate_call rotate = rotation(x, q_heads, rows);
        rotate.q.head_stride = wrong[i];
        int explained = ropewalk_explain_rotate(&rotate, text, sizeof text);
        names_field("q", ropewalk_rotate(&rotate), explained, text);
        rotate = rotation(x, q_heads, rows);
        rotate.k = heads(y, k_heads);
        rotate.k.head_stride = wrong[i];
        explained = ropewalk_explain_rotate(&rotate, text, sizeof text);
        names_field("k", ropewalk_rotate(&rotate), explained, text);

        ropewalk_normalize_call norm = normalization(x, q_heads, rows);
        norm.k = heads(y, k_heads);
        norm.q_norm.weight = norm.k_norm.weight = y;
        norm.k.head_stride = wrong[i];
        explained = ropewalk_explain_normalize_and_rotate(&norm, text, sizeof text);
        names_field("k", ropewalk_normalize_and_rotate(&norm), explained, text);
        norm.k_norm.scale = 0;
        norm.k.head_stride = channels;
        explained = ropewalk_explain_normalize_and_rotate(&norm, text, sizeof text);
        names_field("k_norm", ropewalk_normalize_and_rotate(&norm), explained, text);
    }
}

int main(void) {
    make_layer();
    for (ptrdiff_t i = 0; ropewalk_available_unit(i) != NULL; ++i) {
        ropewalk_use_unit(ropewalk_available_unit(i));
        test_calls(ropewalk_table_rows(table));
        test_stated_rows(ropewalk_table_rows(table));
        test_norm_of_nothing(ropewalk_table_rows(table));
        test_names(ropewalk_table_rows(table));
    }
    test_ragged();
    test_model();
    return end_layer();
}
