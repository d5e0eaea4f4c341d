// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What calls.c and cache.c share: a small layer of a C engine.
#ifndef ROPEWALK_TESTS_DISPATCH_LAYER_H
#define ROPEWALK_TESTS_DISPATCH_LAYER_H

#include <ropewalk/ropewalk.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { tokens = 5, q_heads = 4, k_heads = 2, pairs = 32, channels = 2 * pairs, pages = 3, page_tokens = 4 };

static int failures = 0;
static void check(int holds, const char* what) {
    if (!holds) {
        char why[200];
        ropewalk_last_misfit(why, sizeof why);
        printf("%s: %s (%s)\n", ropewalk_unit(), what, why);
        ++failures;
    }
}

static float q[tokens * q_heads * channels], k[tokens * k_heads * channels], v[tokens * k_heads * channels];
static const int32_t positions[tokens] = {70, 71, 72, 1000000, 74};

static void fill(float* x, int count, double seed) {
    for (int i = 0; i < count; ++i) x[i] = (float)sin(seed + 0.37 * i);
}
static double distance(const float* a, const float* b, int count) {
    double worst = 0;
    for (int i = 0; i < count; ++i) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}
static ropewalk_tensor heads(float* x, ptrdiff_t count) {
    ropewalk_tensor t = {0};
    t.data = x;
    t.heads = count;
    t.head_stride = channels;
    t.token_stride = count * channels;
    return t;
}
static inline ropewalk_rotate_call rotation(float* x, ptrdiff_t count, ropewalk_rows rows) {
    ropewalk_rotate_call call = ropewalk_new_rotate_call();
    call.dtype = ROPEWALK_F32;
    call.layout = ROPEWALK_HALF_SPLIT;
    call.tokens = tokens;
    call.q = heads(x, count);
    call.rows = rows;
    return call;
}

/// The reason of the last refusal.
static inline const char* misfit(void) {
    static char text[200];
    ropewalk_last_misfit(text, sizeof text);
    return text;
}
static inline float half_to_float(uint16_t bits, int dtype) {
    if (dtype == ROPEWALK_BF16) {
        const uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double size = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return (float)(bits >> 15 ? -size : size);
}
/// Spectrum and table of the positions above.
static ropewalk_spectrum* spectrum;
static ropewalk_table* table;
static void make_layer(void) {
    fill(q, tokens * q_heads * channels, 1);
    fill(k, tokens * k_heads * channels, 2);
    fill(v, tokens * k_heads * channels, 3);
    char text[200] = "";
    ropewalk_spectrum_options o = ropewalk_new_spectrum_options();
    o.rotary_dim = channels;
    check(ropewalk_make_spectrum(&o, &spectrum, text, sizeof text) == ROPEWALK_OK, text);
    double where[tokens];
    for (int n = 0; n < tokens; ++n) where[n] = positions[n];
    ropewalk_table_options t = ropewalk_new_table_options();
    t.spectrum = spectrum;
    t.rows = tokens;
    t.positions = where;
    check(ropewalk_make_table(&t, &table, text, sizeof text) == ROPEWALK_OK, text);
}
static int end_layer(void) {
    ropewalk_free_table(table);
    ropewalk_free_spectrum(spectrum);
    printf("ropewalk %s: %d failures\n", ropewalk_version(), failures);
    return failures != 0;
}

#endif
