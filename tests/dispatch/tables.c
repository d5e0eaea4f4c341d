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
static void refused(ropewalk_table_options o, const char* word) {
    char text[200];
    ropewalk_table* table = (ropewalk_table*)&failures;
    const int status = ropewalk_make_table(&o, &table, text, sizeof text);
    if (status != ROPEWALK_BAD_CALL || table != NULL || strstr(text, word) == NULL) {
        printf("wanted %s, got status %d: %s\n", word, status, text);
        ++failures;
    }
}

int main(void) {
    ropewalk_table_options o = ropewalk_new_table_options();
    o.rotary_dim = 8;
    o.rows = 6;
    o.base = 500000;

    char text[200];
    ropewalk_table* table = NULL;
    check(ropewalk_make_table(&o, &table, text, sizeof text) == ROPEWALK_OK, "the table was not made");
    const ropewalk_rows rows = ropewalk_table_rows(table);
    check(rows.table_rows == 6 && rows.pairs == 4 && rows.table_heads == 1, "the table has another shape");
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
    check(ropewalk_make_table(&o, &table, NULL, 0) == ROPEWALK_OK, "YaRN");
    check(fabs((double)((const float*)ropewalk_table_rows(table).cos)[0] - (0.1 * log(4) + 1)) < 1e-6,
          "its magnitude");
    ropewalk_free_table(table);
    const double frequencies[] = {0.5, 0.25, 0, -1}, positions[] = {-3, 0.5, 1e9, 0, 0, 1};
    o.scaling = ROPEWALK_GIVEN_FREQUENCIES;
    o.frequencies = frequencies;
    o.positions = positions;
    o.dtype = ROPEWALK_F64;
    o.magnitude = 2;
    check(ropewalk_make_table(&o, &table, text, sizeof text) == ROPEWALK_OK, "given frequencies");
    const ropewalk_rows given = ropewalk_table_rows(table);
    for (int n = 0; n < 6; ++n)
        for (int i = 0; i < 4; ++i)
            check(fabs(((const double*)given.sin)[n * given.row_stride + i] -
                       2 * sin(positions[n] * frequencies[i])) < 1e-7 * 4,
                  "sine");
    ropewalk_free_table(table);
    const int scalings[] = {ROPEWALK_UNSCALED, ROPEWALK_LINEAR, ROPEWALK_LLAMA3};
    for (int i = 0; i < 3; ++i) {
        o.scaling = scalings[i];
        check(ropewalk_make_table(&o, &table, text, sizeof text) == ROPEWALK_OK, text);
        ropewalk_free_table(table);
    }

    // Two axes: pairs 0 and 2 read the first.
    const int32_t axis_of_pair[] = {0, 1, 0, 1};
    const double two[] = {1, 10, 2, 20, 3, 30};
    ropewalk_table_options axes = o;
    axes.scaling = ROPEWALK_GIVEN_FREQUENCIES;
    axes.rows = 3;
    axes.axes = 2;
    axes.axis_of_pair = axis_of_pair;
    axes.positions = two;
    check(ropewalk_make_table(&axes, &table, text, sizeof text) == ROPEWALK_OK, text);
    const ropewalk_rows of_two = ropewalk_table_rows(table);
    for (int n = 0; n < 3; ++n)
        for (int i = 0; i < 4; ++i)
            check(fabs(((const double*)of_two.cos)[n * of_two.row_stride + i] -
                       2 * cos(two[2 * n + axis_of_pair[i]] * frequencies[i])) < 1e-14,
                  "cosine of two axes");
    ropewalk_free_table(table);
    const int32_t outside[] = {0, 1, 2, 0};
    ropewalk_table_options bad = axes;
    bad.axis_of_pair = outside, refused(bad, "axis_of_pair");
    bad.axis_of_pair = NULL, refused(bad, "axis_of_pair");
    bad = axes, bad.axes = 0, refused(bad, "axes");
    bad = axes, bad.axes = PTRDIFF_MAX, refused(bad, "axes");
    const double hole[] = {1, NAN, 2, 20, 3, 30};
    bad = axes, bad.positions = hole, refused(bad, "positions");

    bad = o;
    bad.size = 8, refused(bad, "size");
    bad = o, bad.version = 0, refused(bad, "version");
    bad = o, bad.dtype = ROPEWALK_BF16, refused(bad, "dtype");
    bad = o, bad.scaling = 5, refused(bad, "scaling");
    bad = o, bad.scaling = -1, refused(bad, "scaling");
    bad = o, bad.reserved = 1, refused(bad, "reserved");
    bad = o, bad.rotary_dim = 7, refused(bad, "rotary_dim");
    bad = o, bad.rotary_dim = -8, refused(bad, "rotary_dim");
    bad = o, bad.rotary_dim = PTRDIFF_MAX - 1, refused(bad, "rotary_dim");
    bad = o, bad.rows = -1, refused(bad, "rows");
    bad = o, bad.rows = PTRDIFF_MAX, refused(bad, "rows");
    bad = o, bad.base = -1, refused(bad, "base");
    bad = o, bad.base = NAN, refused(bad, "base");
    bad = o, bad.factor = 0, refused(bad, "factor");
    bad = o, bad.magnitude = INFINITY, refused(bad, "magnitude");
    bad = o, bad.scaling = ROPEWALK_GIVEN_FREQUENCIES, bad.frequencies = NULL, refused(bad, "frequencies");
    check(ropewalk_make_table(NULL, &table, text, sizeof text) == ROPEWALK_BAD_CALL && table == NULL,
          "no options");
    check(ropewalk_make_table(&o, NULL, text, sizeof text) == ROPEWALK_BAD_CALL, "nowhere to put the table");
    check(ropewalk_table_rows(NULL).table_rows == 0, "rows of no table");
    ropewalk_free_table(NULL);
    for (int s = ROPEWALK_OK; s <= ROPEWALK_NO_MEMORY; ++s)
        check(strcmp(ropewalk_status_text(s), ropewalk_status_text(77)) != 0, "a status has no text");
    printf("%d failures\n", failures);
    return failures != 0;
}
