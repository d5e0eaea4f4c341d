// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A C program from a model's numbers to rotated heads: tables, their errors, and a context shift with one
// row.
#include <ropewalk/ropewalk.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;
static void check(int holds, const char* what) {
    if (!holds) {
        printf("%s\n", what);
        ++failures;
    }
}
/// Whether the options are refused by a text with this in it.
static void refused(ropewalk_spectrum_options o, const char* word) {
    char text[200];
    ropewalk_spectrum* spectrum = (ropewalk_spectrum*)&failures;
    const int status = ropewalk_make_spectrum(&o, &spectrum, text, sizeof text);
    if (status != ROPEWALK_BAD_CALL || spectrum != NULL || strstr(text, word) == NULL) {
        printf("wanted %s, got status %d: %s\n", word, status, text);
        ++failures;
    }
}
static void table_refused(ropewalk_table_options o, const char* word) {
    char text[200];
    ropewalk_table* table = (ropewalk_table*)&failures;
    const int status = ropewalk_make_table(&o, &table, text, sizeof text);
    if (status != ROPEWALK_BAD_CALL || table != NULL || strstr(text, word) == NULL) {
        printf("wanted %s, got status %d: %s\n", word, status, text);
        ++failures;
    }
}
/// A table of f64 or f32 and nothing else to hold on to.
static ropewalk_table* table_of(const ropewalk_spectrum_options* o, int dtype, ptrdiff_t rows,
                                const double* positions) {
    char text[200] = "";
    ropewalk_spectrum* spectrum = NULL;
    ropewalk_table* table = NULL;
    check(ropewalk_make_spectrum(o, &spectrum, text, sizeof text) == ROPEWALK_OK, text);
    ropewalk_table_options t = ropewalk_new_table_options();
    t.spectrum = spectrum;
    t.rows = rows;
    t.dtype = dtype;
    t.positions = positions;
    check(ropewalk_make_table(&t, &table, text, sizeof text) == ROPEWALK_OK, text);
    ropewalk_free_spectrum(spectrum);
    return table;
}

int main(void) {
    ropewalk_spectrum_options o = ropewalk_new_spectrum_options();
    o.rotary_dim = 8;
    o.base = 500000;

    char text[200];
    ropewalk_table* table = table_of(&o, ROPEWALK_F32, 6, NULL);
    const ropewalk_rows rows = ropewalk_table_rows(table);
    check(rows.table_rows == 6 && rows.pairs == 4 && rows.table_heads == 1 && rows.dtype == ROPEWALK_F32,
          "the table has another shape");
    const float* cosines = (const float*)rows.cos;
    for (int n = 0; n < 6; ++n)
        for (int i = 0; i < 4; ++i)
            check(fabs((double)cosines[n * rows.row_stride + i] - cos(n * pow(500000, -i / 4.0))) < 1e-7,
                  "cosine");

    // Token 0 at position 5, moved back by 3, is token 0 at position 2.
    float at_5[8], at_2[8];
    for (int i = 0; i < 8; ++i) at_5[i] = at_2[i] = (float)(i + 1);
    int32_t row = 5;
    ropewalk_rotate_call call = ropewalk_new_rotate_call();
    call.dtype = ROPEWALK_F32;
    call.layout = ROPEWALK_INTERLEAVED;
    call.tokens = 1;
    call.q = (ropewalk_tensor){at_5, 1, 8, 8, 8};
    call.rows = rows;
    call.rows.row_of_token = &row;
    call.rows.row_count = 1;
    check(ropewalk_rotate(&call) == ROPEWALK_OK, "position 5");
    row = 6;
    check(ropewalk_explain_rotate(&call, text, sizeof text) == ROPEWALK_BAD_CALL &&
              strcmp(text,
                     "row index of a token must be at most the last row of the table: wanted 5, got 6") == 0,
          text);
    row = 3;
    call.direction = ROPEWALK_GRADIENT;
    check(ropewalk_rotate(&call) == ROPEWALK_OK, "back by 3");
    row = 2;
    call.direction = ROPEWALK_ROTATE;
    call.q.data = at_2;
    check(ropewalk_rotate(&call) == ROPEWALK_OK, "position 2");
    for (int i = 0; i < 8; ++i)
        check(fabs((double)at_5[i] - (double)at_2[i]) < 4e-6, "a shift is another position");
    ropewalk_free_table(table);

    // YaRN's magnitude is in the rows; given frequencies and positions; f64.
    o.scaling = ROPEWALK_YARN;
    o.factor = 4;
    o.original_context = 4096;
    table = table_of(&o, ROPEWALK_F32, 6, NULL);
    check(fabs((double)((const float*)ropewalk_table_rows(table).cos)[0] - (0.1 * log(4) + 1)) < 1e-6,
          "its magnitude");
    ropewalk_free_table(table);
    const double frequencies[] = {0.5, 0.25, 0, -1}, positions[] = {-3, 0.5, 1e9, 0, 0, 1};
    o.scaling = ROPEWALK_GIVEN_FREQUENCIES;
    o.frequencies = frequencies;
    o.magnitude = 2;
    table = table_of(&o, ROPEWALK_F64, 6, positions);
    const ropewalk_rows given = ropewalk_table_rows(table);
    for (int n = 0; n < 6; ++n)
        for (int i = 0; i < 4; ++i)
            check(fabs(((const double*)given.sin)[n * given.row_stride + i] -
                       2 * sin(positions[n] * frequencies[i])) < 1e-7 * 4,
                  "sine");
    ropewalk_free_table(table);
    const int scalings[] = {ROPEWALK_UNSCALED, ROPEWALK_LINEAR, ROPEWALK_LLAMA3, ROPEWALK_NTK};
    for (int i = 0; i < 4; ++i) {
        o.scaling = scalings[i];
        ropewalk_free_table(table_of(&o, ROPEWALK_F64, 6, positions));
    }
    // Divisors on top, as GGUF files have them; frequencies can be read back.
    const double factors[] = {1, 2, 4, 8};
    double read[4] = {0, 0, 0, -7};
    ropewalk_spectrum* spectrum = NULL;
    o.scaling = ROPEWALK_UNSCALED;
    o.pair_factors = factors;
    check(ropewalk_make_spectrum(&o, &spectrum, text, sizeof text) == ROPEWALK_OK, text);
    check(ropewalk_get_frequencies(spectrum, read, 3) == 4 && read[3] == -7, "frequencies of a spectrum");
    for (int i = 0; i < 3; ++i)
        check(fabs(read[i] - pow(500000, -i / 4.0) / factors[i]) < 1e-15, "a divided frequency");
    check(ropewalk_get_frequencies(NULL, read, 3) == 0, "frequencies of no spectrum");
    ropewalk_spectrum_info info = ropewalk_new_spectrum_info();
    check(ropewalk_get_spectrum_info(NULL, &info) == ROPEWALK_BAD_CALL && info.pairs == 0, "no spectrum");
    check(ropewalk_get_spectrum_info(spectrum, NULL) == ROPEWALK_BAD_CALL, "nothing to fill in");
    info.version = 77;
    check(ropewalk_get_spectrum_info(spectrum, &info) == ROPEWALK_BAD_CALL && info.pairs == 0,
          "another version");
    info = ropewalk_new_spectrum_info();
    info.size -= 1;
    check(ropewalk_get_spectrum_info(spectrum, &info) == ROPEWALK_BAD_CALL, "another size");
    ropewalk_last_misfit(text, sizeof text);
    check(strncmp(text, "size must be sizeof(ropewalk_spectrum_info): wanted", 51) == 0, text);
    info = ropewalk_new_spectrum_info();
    check(ropewalk_get_spectrum_info(spectrum, &info) == ROPEWALK_OK, "a spectrum");
    check(info.pairs == 4 && info.axes == 1 && info.heads == 1 && info.magnitude == 2, "what a spectrum is");
    check(ropewalk_rows_on_the_fly(NULL, NULL, 3).pairs == 0, "rows of no spectrum");

    // Rows that move cached keys: by a distance, and from one spectrum to another.
    ropewalk_table_options t = ropewalk_new_table_options();
    const double back[] = {-3, 2};
    t.spectrum = spectrum;
    t.rows = 2;
    t.dtype = ROPEWALK_F64;
    t.positions = back;
    t.for_shift = 1;
    check(ropewalk_make_table(&t, &table, text, sizeof text) == ROPEWALK_OK, text);
    check(fabs(((const double*)ropewalk_table_rows(table).cos)[0] - cos(-3.0)) < 1e-15,
          "a shift has no magnitude");
    ropewalk_free_table(table);
    ropewalk_spectrum* other = NULL;
    o.pair_factors = NULL;
    check(ropewalk_make_spectrum(&o, &other, text, sizeof text) == ROPEWALK_OK, text);
    t.for_shift = 0;
    t.from = other;
    check(ropewalk_make_table(&t, &table, text, sizeof text) == ROPEWALK_OK, text);
    const double moved = -3 * pow(500000, -1 / 4.0) / 2 + 3 * pow(500000, -1 / 4.0);
    check(fabs(((const double*)ropewalk_table_rows(table).sin)[1] - sin(moved)) < 1e-14, "another spectrum");
    ropewalk_free_table(table);
    ropewalk_free_spectrum(other);

    // Two axes: pairs 0 and 2 read the first.
    const int32_t axis_of_pair[] = {0, 1, 0, 1};
    const double two[] = {1, 10, 2, 20, 3, 30};
    ropewalk_spectrum_options axes = o;
    axes.scaling = ROPEWALK_GIVEN_FREQUENCIES;
    axes.axes = 2;
    axes.axis_of_pair = axis_of_pair;
    table = table_of(&axes, ROPEWALK_F64, 3, two);
    const ropewalk_rows of_two = ropewalk_table_rows(table);
    for (int n = 0; n < 3; ++n)
        for (int i = 0; i < 4; ++i)
            check(fabs(((const double*)of_two.cos)[n * of_two.row_stride + i] -
                       2 * cos(two[2 * n + axis_of_pair[i]] * frequencies[i])) < 1e-14,
                  "cosine of two axes");
    ropewalk_free_table(table);
    const int32_t outside[] = {0, 1, 2, 0};
    ropewalk_spectrum_options bad = axes;
    bad.axis_of_pair = outside, refused(bad, "axis_of_pair");
    bad.axis_of_pair = NULL, refused(bad, "axis_of_pair");
    bad = axes, bad.axes = 0, refused(bad, "axes");
    bad = axes, bad.axes = PTRDIFF_MAX, refused(bad, "axes");
    const double hole[] = {1, NAN, 2, 20, 3, 30};
    bad = axes, bad.axes = 2, bad.magnitude = 0, refused(bad, "magnitude");
    ropewalk_table_options wrong = t;
    wrong.from = NULL, wrong.positions = hole, table_refused(wrong, "positions");
    wrong = t, wrong.size = 8, table_refused(wrong, "size");
    wrong = t, wrong.version = 2, table_refused(wrong, "version");
    wrong = t, wrong.dtype = ROPEWALK_BF16, table_refused(wrong, "dtype");
    wrong = t, wrong.spectrum = NULL, table_refused(wrong, "spectrum");
    wrong = t, wrong.rows = -1, table_refused(wrong, "rows");
    wrong = t, wrong.rows = PTRDIFF_MAX, table_refused(wrong, "rows");
    wrong = t, wrong.for_shift = 2, table_refused(wrong, "for_shift");
    wrong = t, wrong.reserved = 1, table_refused(wrong, "reserved");
    wrong = t, wrong.for_shift = 1, wrong.from = spectrum, table_refused(wrong, "from");
    wrong = t, wrong.from = NULL, wrong.from_positions = two, table_refused(wrong, "from_positions");

    bad = o;
    bad.size = 8, refused(bad, "size");
    bad = o, bad.version = 0, refused(bad, "version");
    bad = o, bad.scaling = 6, refused(bad, "scaling");
    bad = o, bad.scaling = -1, refused(bad, "scaling");
    bad = o, bad.rotary_dim = 7, refused(bad, "rotary_dim");
    bad = o, bad.rotary_dim = -8, refused(bad, "rotary_dim");
    bad = o, bad.rotary_dim = PTRDIFF_MAX - 1, refused(bad, "rotary_dim");
    bad = o, bad.base = -1, refused(bad, "base");
    bad = o, bad.base = NAN, refused(bad, "base");
    bad = o, bad.scaling = ROPEWALK_NTK, bad.factor = 0, refused(bad, "alpha");
    bad = o, bad.scaling = ROPEWALK_LINEAR, bad.factor = 0, refused(bad, "factor");
    bad = o, bad.magnitude = INFINITY, refused(bad, "magnitude");
    bad = o, bad.scaling = ROPEWALK_GIVEN_FREQUENCIES, bad.frequencies = NULL, refused(bad, "frequencies");
    check(ropewalk_make_table(NULL, &table, text, sizeof text) == ROPEWALK_BAD_CALL && table == NULL,
          "no options");
    check(ropewalk_make_table(&t, NULL, text, sizeof text) == ROPEWALK_BAD_CALL, "nowhere to put the table");
    check(ropewalk_make_spectrum(NULL, &other, text, sizeof text) == ROPEWALK_BAD_CALL && other == NULL,
          "no spectrum options");
    ropewalk_free_spectrum(spectrum);
    ropewalk_free_spectrum(NULL);
    check(ropewalk_table_rows(NULL).table_rows == 0 && ropewalk_table_rows(NULL).dtype == 0,
          "rows of no table");
    ropewalk_free_table(NULL);
    for (int s = ROPEWALK_OK; s <= ROPEWALK_NOT_BUILT; ++s)
        check(strcmp(ropewalk_status_text(s), ropewalk_status_text(77)) != 0, "a status has no text");
    printf("%d failures\n", failures);
    return failures != 0;
}
