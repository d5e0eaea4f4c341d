// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// C calls that make frequencies (spectra) and tables of cos and sin.
#ifndef ROPEWALK_DISPATCH_C_TABLES_H
#define ROPEWALK_DISPATCH_C_TABLES_H

#include <ropewalk/dispatch/c_types.h>

// Objects made here never change afterwards: any number of threads may use them.

#ifdef __cplusplus
extern "C" {
#endif

/// How frequencies are scaled; fields that a rule does not use are not read.
enum ropewalk_scaling {
    ROPEWALK_UNSCALED = 0,           ///< base^(-2 i / rotary_dim)
    ROPEWALK_LINEAR = 1,             ///< those, divided by factor
    ROPEWALK_LLAMA3 = 2,             ///< factor, original_context, low_freq_factor, high_freq_factor
    ROPEWALK_YARN = 3,               ///< factor, original_context, beta_fast, beta_slow, attention_factor
    ROPEWALK_GIVEN_FREQUENCIES = 4,  ///< frequencies
    ROPEWALK_NTK = 5                 ///< the base times factor^(d / (d - 2)), d = rotary_dim
};

/// The parameters of a spectrum. Begin with ropewalk_new_spectrum_options().
typedef struct ropewalk_spectrum_options {
    size_t size;                  ///< sizeof(ropewalk_spectrum_options)
    int32_t version;              ///< ROPEWALK_C_VERSION
    int32_t scaling;              ///< an enum ropewalk_scaling
    ptrdiff_t rotary_dim;         ///< channels that rotate, even, at most 65536
    double base;                  ///< rope_theta
    double factor;                ///< the context extension
    double original_context;      ///< the length in tokens the model was trained at
    double low_freq_factor;       ///< Llama 3.1
    double high_freq_factor;      ///< Llama 3.1
    double beta_fast;             ///< YaRN
    double beta_slow;             ///< YaRN
    double attention_factor;      ///< YaRN's magnitude; 0: 0.1 ln(factor) + 1
    const double* frequencies;    ///< rotary_dim / 2 numbers in radians per position, or NULL
    const double* pair_factors;   ///< rotary_dim / 2 divisors on top (GGUF's rope_freqs), or NULL
    double magnitude;             ///< a further factor on cos and sin
    ptrdiff_t axes;               ///< of a position, at most 16
    const int32_t* axis_of_pair;  ///< the axis of each of the rotary_dim / 2 pairs; NULL with one axis
} ropewalk_spectrum_options;

/// Unscaled, base 10000, YaRN's betas 32 and 1, Llama 3.1's factors 1 and 4, one axis; rotary_dim is to be
/// filled in.
static inline ropewalk_spectrum_options ropewalk_new_spectrum_options(void) {
    ropewalk_spectrum_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.version = ROPEWALK_C_VERSION;
    options.base = 10000;
    options.factor = 1;
    options.low_freq_factor = 1;
    options.high_freq_factor = 4;
    options.beta_fast = 32;
    options.beta_slow = 1;
    options.magnitude = 1;
    options.axes = 1;
    return options;
}

/// Makes a spectrum. On success *spectrum is to be freed by ropewalk_free_spectrum(); else it is NULL and
/// `text`, of `size` characters or NULL, names the refused parameter. Returns an enum ropewalk_status.
int ropewalk_make_spectrum(const ropewalk_spectrum_options* options, ropewalk_spectrum** spectrum, char* text,
                           size_t size);
void ropewalk_free_spectrum(ropewalk_spectrum* spectrum);

/// The properties of a spectrum.
typedef struct ropewalk_spectrum_info {
    size_t size;       ///< sizeof(ropewalk_spectrum_info)
    int32_t version;   ///< ROPEWALK_C_VERSION
    ptrdiff_t pairs;   ///< channels that rotate / 2
    ptrdiff_t axes;    ///< of a position
    ptrdiff_t heads;   ///< 1: all heads share the frequencies
    double magnitude;  ///< the factor on cos and sin
} ropewalk_spectrum_info;
/// An info to be filled in by ropewalk_get_spectrum_info().
static inline ropewalk_spectrum_info ropewalk_new_spectrum_info(void) {
    ropewalk_spectrum_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    info.version = ROPEWALK_C_VERSION;
    return info;
}
/// The properties of a spectrum. ROPEWALK_BAD_CALL if it is NULL, or if `info` is of another version.
int ropewalk_get_spectrum_info(const ropewalk_spectrum* spectrum, ropewalk_spectrum_info* info);
/// The frequencies of the first head in radians per position: at most `count` of them are written. Returns
/// their number.
ptrdiff_t ropewalk_get_frequencies(const ropewalk_spectrum* spectrum, double* frequencies, ptrdiff_t count);
/// Rows that are computed while a call runs, from `tokens` positions of type int32_t. Change position_type,
/// axes_first, first_token and batch_stride for others. Spectrum and positions must outlive the calls that
/// use them.
ropewalk_rows ropewalk_rows_on_the_fly(const ropewalk_spectrum* spectrum, const int32_t* positions,
                                       ptrdiff_t tokens);

/// The parameters of a table. Begin with ropewalk_new_table_options().
typedef struct ropewalk_table_options {
    size_t size;                        ///< sizeof(ropewalk_table_options)
    int32_t version;                    ///< ROPEWALK_C_VERSION
    int32_t dtype;                      ///< of cos and sin: ROPEWALK_F64 for data of f64, else ROPEWALK_F32
    const ropewalk_spectrum* spectrum;  ///< may be freed when the table is made
    ptrdiff_t rows;                     ///< rows of the table, at most 2^31 - 1
    const double* positions;            ///< [rows, axes]; NULL: row r is position r on every axis
    int32_t for_shift;                  ///< 1: positions are shifts of cached keys; their magnitude stays
    int32_t reserved;                   ///< 0
    const ropewalk_spectrum* from;      ///< old spectrum of cached keys that change to `spectrum`, or NULL
    const double* from_positions;       ///< [rows, axes] positions of the keys under `from`; NULL: positions
} ropewalk_table_options;

/// A table of f32; spectrum and rows are to be filled in.
static inline ropewalk_table_options ropewalk_new_table_options(void) {
    ropewalk_table_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.version = ROPEWALK_C_VERSION;
    options.dtype = ROPEWALK_F32;
    return options;
}

/// Makes a table, as accurate at position 10^6 as at 0. On success *table is to be freed by
/// ropewalk_free_table(); else as ropewalk_make_spectrum().
int ropewalk_make_table(const ropewalk_table_options* options, ropewalk_table** table, char* text,
                        size_t size);
void ropewalk_free_table(ropewalk_table* table);
/// The rows of the table for a call's rows, valid until it is freed; without an index array, token n reads
/// row n. Where table is NULL, rows without pairs, which calls refuse.
ropewalk_rows ropewalk_table_rows(const ropewalk_table* table);

#ifdef __cplusplus
}
#endif

#endif
