// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Keys and values into a paged cache of every format, a context shift, and all that precedes attention in one
// call; each against the calls it is made of.
#include "layer.h"

static const int64_t slots[tokens] = {9, 2, -1, 4, 0};

static float code_to_float(uint8_t bits, int dtype) {
    const int m = dtype == ROPEWALK_F8_E4M3 ? 3 : 2, bias = dtype == ROPEWALK_F8_E4M3 ? 7 : 15;
    const int exponent = bits >> m & ((1 << (7 - m)) - 1), mantissa = bits & ((1 << m) - 1);
    const double size =
        exponent == 0 ? ldexp(mantissa, 1 - bias - m) : ldexp((1 << m) + mantissa, exponent - bias - m);
    return (float)(bits >> 7 ? -size : size);
}
/// One head of a cache as numbers.
static void read_head(const void* cache, const float* scales, int dtype, ptrdiff_t slot, ptrdiff_t head,
                      float* out) {
    const uint8_t* bytes = (const uint8_t*)cache;
    const ptrdiff_t row = slot * k_heads + head;
    for (int c = 0; c < channels; ++c) {
        const ptrdiff_t at = row * channels + c;
        uint16_t half = 0;
        if (dtype == ROPEWALK_F32) memcpy(&out[c], bytes + 4 * at, 4);
        if (dtype == ROPEWALK_F16 || dtype == ROPEWALK_BF16) {
            memcpy(&half, bytes + 2 * at, 2);
            out[c] = half_to_float(half, dtype);
        }
        if (dtype == ROPEWALK_INT8) out[c] = (float)(int8_t)bytes[at] * scales[row];
        if (dtype == ROPEWALK_F8_E4M3 || dtype == ROPEWALK_F8_E5M2)
            out[c] = code_to_float(bytes[at], dtype) * 0.5f;
        if (dtype == ROPEWALK_Q8_0 || dtype == ROPEWALK_Q4_0) {
            const int size = dtype == ROPEWALK_Q8_0 ? 34 : 18;
            const uint8_t* block = bytes + (row * 2 + c / 32) * size;
            const int i = c % 32;
            memcpy(&half, block, 2);
            const int code =
                dtype == ROPEWALK_Q8_0 ? (int8_t)block[2 + i] : (block[2 + i % 16] >> (i / 16 * 4) & 15) - 8;
            out[c] = half_to_float(half, ROPEWALK_F16) * (float)code;
        }
    }
}
/// Half a step of each format for numbers below sqrt(2); of 4 bits the end that has no code is a whole step
/// away.
static const double roundings[10] = {0, 0, 0, 6e-4, 5e-3, 6e-3, 8e-2, 1.6e-1, 6e-3, 1.77e-1};

static uint64_t key_memory[2][pages * page_tokens * k_heads * channels];
static float key_scales[2][pages * page_tokens * k_heads];

static ropewalk_cache cache_of(int which, int dtype, int packed) {
    ropewalk_cache c = {0};
    c.data = key_memory[which];
    c.head_stride = packed;
    c.token_stride = k_heads * packed;
    c.page_stride = page_tokens * k_heads * packed;
    c.scale = 0.5;
    if (dtype == ROPEWALK_INT8) {
        c.scales = key_scales[which];
        c.scale_head_stride = 1;
        c.scale_token_stride = k_heads;
        c.scale_page_stride = page_tokens * k_heads;
    }
    return c;
}

static void test_cache(ropewalk_rows rows, int dtype) {
    const int packed = dtype == ROPEWALK_Q8_0 || dtype == ROPEWALK_Q4_0 ? channels / 32 : channels;
    const double most = roundings[dtype];
    float rotated[tokens * k_heads * channels], head[channels], q_out[tokens * q_heads * channels];
    char text[200] = "";
    memset(key_memory, 0, sizeof key_memory);
    memset(key_scales, 0, sizeof key_scales);
    ropewalk_attention_call call = ropewalk_new_attention_call();
    call.dtype = ROPEWALK_F32;
    call.cache_dtype = dtype;
    call.layout = ROPEWALK_HALF_SPLIT;
    call.tokens = tokens;
    call.channels = channels;
    call.key = heads(k, k_heads);
    call.value = heads(v, k_heads);
    call.key_cache = cache_of(0, dtype, packed);
    call.value_cache = cache_of(1, dtype, packed);
    call.pages = pages;
    call.page_tokens = page_tokens;
    ropewalk_plan* plan = NULL;
    check(ropewalk_make_plan(&call, slots, tokens, &plan, text, sizeof text) == ROPEWALK_OK, text);
    call.plan = plan;
    call.rows = rows;
    check(ropewalk_explain_append(&call, text, sizeof text) == ROPEWALK_OK && strcmp(text, "fits") == 0,
          text);
    check(ropewalk_append(&call) == ROPEWALK_OK, "append");
    memcpy(rotated, k, sizeof rotated);
    ropewalk_rotate_call rotate = rotation(rotated, k_heads, rows);
    check(ropewalk_rotate(&rotate) == ROPEWALK_OK, "rotate");
    for (int n = 0; n < tokens; ++n)
        for (int h = 0; h < k_heads && slots[n] >= 0; ++h) {
            read_head(key_memory[0], key_scales[0], dtype, slots[n], h, head);
            check(distance(head, rotated + (n * k_heads + h) * channels, channels) <= most,
                  "an appended key");
            read_head(key_memory[1], key_scales[1], dtype, slots[n], h, head);
            check(distance(head, v + (n * k_heads + h) * channels, channels) <= most, "an appended value");
        }

    // Rows that were forgotten, or are of doubles, leave the cache; keys are cached as they are where that is said.
    uint64_t before[pages * page_tokens * k_heads * channels];
    memcpy(before, key_memory[0], sizeof before);
    ropewalk_rows doubles = rows;
    doubles.dtype = ROPEWALK_F64;
    const ropewalk_rows wrong[] = {ropewalk_new_attention_call().rows, ropewalk_table_rows(NULL), doubles};
    const char* must[] = {"rows must have pairs", "rows must have pairs",
                          "cos and sin must be of ROPEWALK_F64"};
    for (int i = 0; i < 3; ++i) {
        call.rows = wrong[i];
        check(ropewalk_explain_append(&call, text, sizeof text) == ROPEWALK_BAD_CALL &&
                  strncmp(text, must[i], strlen(must[i])) == 0,
              text);
        check(ropewalk_append(&call) == ROPEWALK_BAD_CALL, "append by rows that are none");
        check(ropewalk_prepare_attention(&call) == ROPEWALK_BAD_CALL, "prepare by rows that are none");
        check(memcmp(before, key_memory[0], sizeof before) == 0, "a refused append wrote");
    }
    call.rows = ropewalk_no_rotation();
    check(ropewalk_explain_append(&call, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_append(&call) == ROPEWALK_OK, "append of keys as they are");
    for (int n = 0; n < tokens; ++n)
        for (int h = 0; h < k_heads && slots[n] >= 0; ++h) {
            read_head(key_memory[0], key_scales[0], dtype, slots[n], h, head);
            check(distance(head, k + (n * k_heads + h) * channels, channels) <= most, "a key as it is");
        }
    call.rows = rows;

    // The same keys through the prologue, queries beside them; then rows on the fly.
    memset(key_memory[0], 0, sizeof key_memory[0]);
    call.q = heads(q, q_heads);
    call.q_out = heads(q_out, q_heads);
    check(ropewalk_explain_prepare_attention(&call, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_prepare_attention(&call) == ROPEWALK_OK, "prepare_attention");
    check(memcmp(before, key_memory[0], sizeof before) == 0, "the prologue appends what append does");
    float q_rotated[tokens * q_heads * channels];
    memcpy(q_rotated, q, sizeof q_rotated);
    rotate = rotation(q_rotated, q_heads, rows);
    check(ropewalk_rotate(&rotate) == ROPEWALK_OK, "rotate");
    check(distance(q_out, q_rotated, tokens * q_heads * channels) == 0, "a prepared query");
    call.rows = ropewalk_rows_on_the_fly(spectrum, positions, tokens);
    check(ropewalk_prepare_attention(&call) == ROPEWALK_OK, "prepare_attention on the fly");
    check(distance(q_out, q_rotated, tokens * q_heads * channels) < 1e-6, "a query on the fly");
    call.q_norm.kind = ROPEWALK_RMS_NORM;
    check(ropewalk_prepare_attention(&call) == ROPEWALK_BAD_CALL, "a norm without weights");
    call.q_norm.kind = ROPEWALK_NO_NORM;
    call.rows = rows;
    check(ropewalk_append(&call) == ROPEWALK_OK, "append again");

    // A plan serves the shapes it was made for.
    call.key_cache.head_stride += 1;
    check(ropewalk_append(&call) == ROPEWALK_BAD_CALL, "another stride");
    check(ropewalk_last_misfit(text, sizeof text) > 0 && strstr(text, "shapes") != NULL, text);
    call.key_cache.head_stride -= 1;
    call.value_cache.data = NULL;
    ropewalk_plan* unmade = NULL;
    check(ropewalk_make_plan(&call, slots, tokens, &unmade, text, sizeof text) == ROPEWALK_BAD_CALL &&
              strstr(text, ": value_cache: data") != NULL,
          text);
    call.value_cache = cache_of(1, dtype, packed);
    call.plan = NULL;
    check(ropewalk_append(&call) == ROPEWALK_BAD_CALL, "no plan");
    call.value_cache = call.key_cache;
    ropewalk_plan* none = plan;
    check(ropewalk_make_plan(&call, slots, tokens, &none, text, sizeof text) == ROPEWALK_BAD_CALL &&
              none == NULL,
          "one cache for keys and values");
    ropewalk_free_plan(plan);

    // All keys 10 positions back, then forward again.
    ropewalk_shift_call shift = ropewalk_new_shift_call();
    shift.dtype = dtype;
    shift.layout = ROPEWALK_HALF_SPLIT;
    shift.heads = k_heads;
    shift.channels = channels;
    shift.keys = cache_of(0, dtype, packed);
    shift.pages = pages;
    shift.page_tokens = page_tokens;
    check(ropewalk_make_shift_plan(&shift, slots, tokens, &plan, text, sizeof text) == ROPEWALK_OK, text);
    shift.plan = plan;
    memcpy(before, key_memory[0], sizeof before);
    for (int i = 0; i < 3; ++i) {
        shift.rows = wrong[i];
        check(ropewalk_explain_shift_keys(&shift, text, sizeof text) == ROPEWALK_BAD_CALL &&
                  strncmp(text, must[i], strlen(must[i])) == 0,
              text);
        check(ropewalk_shift_keys(&shift) == ROPEWALK_BAD_CALL, "a shift by rows that are none");
    }
    shift.rows = ropewalk_no_rotation();
    check(ropewalk_shift_keys(&shift) == ROPEWALK_OK, "a shift that is none");
    check(memcmp(before, key_memory[0], sizeof before) == 0, "a shift that is none wrote");
    const double by[] = {-10, 10};
    for (int i = 0; i < 2; ++i) {
        const double all[tokens] = {by[i], by[i], by[i], by[i], by[i]};
        ropewalk_table_options o = ropewalk_new_table_options();
        ropewalk_table* shifts = NULL;
        o.spectrum = spectrum;
        o.rows = tokens;
        o.positions = all;
        o.for_shift = 1;
        check(ropewalk_make_table(&o, &shifts, text, sizeof text) == ROPEWALK_OK, text);
        shift.rows = ropewalk_table_rows(shifts);
        check(ropewalk_explain_shift_keys(&shift, text, sizeof text) == ROPEWALK_OK, text);
        check(ropewalk_shift_keys(&shift) == ROPEWALK_OK, "shift_keys");
        for (int n = 0; n < tokens; ++n) {
            if (slots[n] < 0) continue;
            read_head(key_memory[0], key_scales[0], dtype, slots[n], 1, head);
            const float first = head[0], second = head[pairs];
            const double angle = i == 0 ? positions[n] - 10 : positions[n];
            const float* raw = k + (n * k_heads + 1) * channels;
            const double a = (double)raw[0], b = (double)raw[pairs];
            check(fabs((double)first - (a * cos(angle) - b * sin(angle))) < 3 * most + 1e-6 &&
                      fabs((double)second - (a * sin(angle) + b * cos(angle))) < 3 * most + 1e-6,
                  "a shifted key");
        }
        ropewalk_free_table(shifts);
    }
    shift.keys.page_stride += 1;
    check(ropewalk_shift_keys(&shift) == ROPEWALK_BAD_CALL, "a shift of another cache");
    ropewalk_free_plan(plan);
}

int main(void) {
    make_layer();
    for (ptrdiff_t i = 0; ropewalk_available_unit(i) != NULL; ++i) {
        ropewalk_use_unit(ropewalk_available_unit(i));
        for (int dtype = ROPEWALK_F32; dtype <= ROPEWALK_Q4_0; ++dtype)
            test_cache(ropewalk_table_rows(table), dtype);
    }
    return end_layer();
}
