// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A plugin with units of its own: where its rotate is, and which unit it was told to use.
#include <ropewalk/ropewalk.h>

extern "C" const void* own_rotate() { return reinterpret_cast<const void*>(&ropewalk_rotate); }
extern "C" int rotate_one_pair(float* pair, float cosine, float sine) {
    ropewalk_rotate_call call = ropewalk_new_rotate_call();
    call.dtype = ROPEWALK_F32;
    call.layout = ROPEWALK_HALF_SPLIT;
    call.tokens = 1;
    call.q = {pair, 1, 2, 2, 2};
    call.rows.cos = &cosine;
    call.rows.sin = &sine;
    call.rows.table_rows = call.rows.pairs = call.rows.row_stride = 1;
    return ropewalk_rotate(&call);
}
