// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A C engine's view of the library: half-split and interleaved f32, every unit of this CPU, against a plain
// loop.
#include <ropewalk/ropewalk.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { tokens = 3, q_heads = 4, k_heads = 2, pairs = 20, channels = 2 * pairs };

static float q[tokens * q_heads * channels], k[tokens * k_heads * channels];
static float cosines[8 * pairs], sines[8 * pairs];

static double worst(const float* x, ptrdiff_t heads, int layout, const int32_t* rows) {
    double largest = 0;
    for (int n = 0; n < tokens; ++n)
        for (ptrdiff_t h = 0; h < heads; ++h)
            for (int i = 0; i < pairs; ++i) {
                const int u = layout == ROPEWALK_HALF_SPLIT ? i : 2 * i;
                const int v = layout == ROPEWALK_HALF_SPLIT ? i + pairs : 2 * i + 1;
                const float* head = x + (n * heads + h) * channels;
                const double a = sin(u + 100.0 * (double)h), b = sin(v + 100.0 * (double)h);
                const double c = rows[n] < 0 ? 1 : (double)cosines[rows[n] * pairs + i];
                const double s = rows[n] < 0 ? 0 : (double)sines[rows[n] * pairs + i];
                const double e =
                    fmax(fabs((double)head[u] - (a * c - b * s)), fabs((double)head[v] - (a * s + b * c)));
                largest = fmax(largest, e);
            }
    return largest;
}

static void fill(float* x, ptrdiff_t heads) {
    for (ptrdiff_t i = 0; i < tokens * heads; ++i)
        for (int c = 0; c < channels; ++c) x[i * channels + c] = (float)sin(c + 100.0 * (double)(i % heads));
}

int main(void) {
    const int32_t rows[tokens] = {7, -1, 2};
    for (int r = 0; r < 8; ++r)
        for (int i = 0; i < pairs; ++i) {
            cosines[r * pairs + i] = (float)cos(r * pow(10000, -i / (double)pairs));
            sines[r * pairs + i] = (float)sin(r * pow(10000, -i / (double)pairs));
        }
    ropewalk_rotate_call call = ropewalk_new_rotate_call();
    call.dtype = ROPEWALK_F32;
    call.tokens = tokens;
    call.q = (ropewalk_tensor){q, q_heads, 0, q_heads * channels, channels};
    call.k = (ropewalk_tensor){k, k_heads, 0, k_heads * channels, channels};
    call.rows = (ropewalk_rows){.cos = cosines,
                                .sin = sines,
                                .table_rows = 8,
                                .table_heads = 1,
                                .pairs = pairs,
                                .row_stride = pairs,
                                .row_of_token = rows,
                                .row_count = tokens,
                                .dtype = ROPEWALK_F32};

    int failures = 0;
    for (ptrdiff_t i = 0; ropewalk_available_unit(i) != NULL; ++i) {
        failures += ropewalk_use_unit(ropewalk_available_unit(i)) != ROPEWALK_OK;
        failures += strcmp(ropewalk_unit(), ropewalk_available_unit(i)) != 0;
        for (int layout = ROPEWALK_HALF_SPLIT; layout <= ROPEWALK_INTERLEAVED; ++layout) {
            fill(q, q_heads);
            fill(k, k_heads);
            call.layout = layout;
            failures += ropewalk_rotate(&call) != ROPEWALK_OK;
            const double e = fmax(worst(q, q_heads, layout, rows), worst(k, k_heads, layout, rows));
            printf("%s layout %d: worst error %.2g\n", ropewalk_unit(), layout, e);
            failures += !(e <= 5e-7);  // 2 ulp of a pair norm below 2
        }
    }
    failures += ropewalk_available_unit(0) == NULL;
    failures += ropewalk_use_unit("abacus") != ROPEWALK_NO_UNIT;
    failures += ropewalk_rotate(NULL) != ROPEWALK_BAD_CALL;
    char text[200];
    failures += ropewalk_explain_rotate(&call, text, sizeof text) != ROPEWALK_OK || strcmp(text, "fits") != 0;
    call.channels = channels + 2;
    failures += ropewalk_rotate(&call) != ROPEWALK_BAD_CALL;
    failures += ropewalk_explain_rotate(&call, text, sizeof text) != ROPEWALK_BAD_CALL;
    printf("%s\n", text);
    failures += strstr(text, "stride") == NULL;  // heads of 42 channels would overlap
    call.channels = 0;
    call.dtype = 9;
    failures += ropewalk_rotate(&call) != ROPEWALK_BAD_CALL;
    failures += ropewalk_explain_rotate(&call, text, 10) != ROPEWALK_BAD_CALL || strlen(text) != 9;
    failures += ropewalk_explain_rotate(&call, NULL, 0) != ROPEWALK_BAD_CALL;
    return failures != 0;
}
