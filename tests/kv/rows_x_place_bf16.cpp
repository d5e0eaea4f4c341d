// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#define ROWS_X_PLACE_ELEMENT ropewalk::bf16
#define ROWS_X_PLACE_NAME "rows x place: bf16"
#include "rows_x_place.cpp"
