// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#define ROWS_X_PLACE_ELEMENT double
#define ROWS_X_PLACE_NAME "rows x place: f64"
#include "rows_x_place.cpp"
