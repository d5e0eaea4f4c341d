// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One unit of the run-time dispatch, compiled once for each instruction set with its flags and
// ROPEWALK_DISPATCH_UNIT set to the name that those flags must give.
//
// Sealed: the plain types that units of one program otherwise share are this unit's own, so that no inline
// function compiled here can be the copy that the linker keeps for everybody.
#define ROPEWALK_DETAIL_SEALED_UNIT 1
#define ROPEWALK_EXPECT(condition) static_cast<void>(0)  // checked below, once a call

#include <ropewalk/ropewalk.h>
#include <ropewalk/kernels/rotate.hpp>

#define UNIT_TEXT2(x) #x
#define UNIT_TEXT(x) UNIT_TEXT2(x)
#define UNIT_NAME2(x) ropewalk_unit_##x
#define UNIT_NAME(x) UNIT_NAME2(x)

namespace {

namespace rw = ropewalk;

constexpr bool same(const char* a, const char* b) {
    for (; *a != 0 && *a == *b; ++a, ++b) {
    }
    return *a == *b;
}
static_assert(same(UNIT_TEXT(ROPEWALK_ISA), UNIT_TEXT(ROPEWALK_DISPATCH_UNIT)),
              "the flags of this unit do not give its instruction set: an -m flag of the whole project is "
              "stronger than the unit's own");

bool is_tensor(const ropewalk_rotate_call& call, const ropewalk_tensor& x) noexcept {
    return x.heads >= 0 && (x.data != nullptr || x.heads == 0 || call.batches * call.tokens == 0);
}

bool is_call(const ropewalk_rotate_call& call) noexcept {
    const ropewalk_rows& rows = call.rows;
    const std::ptrdiff_t heads =
        call.k.data != nullptr && call.k.heads > call.q.heads ? call.k.heads : call.q.heads;
    const bool numbers = call.size == sizeof(ropewalk_rotate_call) && call.dtype >= ROPEWALK_F64 &&
                         call.dtype <= ROPEWALK_BF16 && call.layout >= ROPEWALK_HALF_SPLIT &&
                         call.layout <= ROPEWALK_BLOCKED && call.turn >= ROPEWALK_ROTATE &&
                         call.turn <= ROPEWALK_GRADIENT && call.reserved == 0 && call.batches >= 0 &&
                         call.tokens >= 0 && call.parts >= 1 && call.part >= 0 && call.part < call.parts &&
                         rows.pairs >= 0 && rows.table_rows >= 0;
    if (!numbers || !is_tensor(call, call.q) || (call.k.data != nullptr && !is_tensor(call, call.k)))
        return false;
    if (call.batches * call.tokens * rows.pairs * heads == 0) return true;
    const bool ordinal = rows.row_of_token == nullptr && rows.row_of_token_64 == nullptr;
    return rows.cos != nullptr && rows.sin != nullptr &&
           (rows.row_of_token == nullptr || rows.row_of_token_64 == nullptr) &&
           (rows.table_heads == 1 || rows.table_heads >= heads) &&
           (ordinal ? rows.table_rows : rows.row_count) >= call.batches * call.tokens &&
           (call.turn != ROPEWALK_UNROTATE || (rows.magnitude > 0 || rows.magnitude < 0)) &&
           (call.layout != ROPEWALK_BLOCKED ||
            (call.group > 0 && call.group % 2 == 0 && 2 * rows.pairs % call.group == 0));
}

rw::pair_layout layout_of(const ropewalk_rotate_call& call) noexcept {
    switch (call.layout) {
        case ROPEWALK_INTERLEAVED: return rw::interleaved{};
        case ROPEWALK_BLOCKED: return rw::pair_layout::blocked_by(call.group);
        default: return rw::half_split{};
    }
}

template <class T>
rw::heads_view<T> view_of(const ropewalk_rotate_call& call, const ropewalk_tensor& x) noexcept {
    return {static_cast<T*>(x.data),
            {call.batches, call.tokens, x.data != nullptr ? x.heads : 0, 2 * call.rows.pairs},
            {x.batch_stride, x.token_stride, x.head_stride}};
}

template <class T>
void run(const ropewalk_rotate_call& call) noexcept {
    using C = rw::compute_t<T>;
    const auto q = view_of<T>(call, call.q), k = view_of<T>(call, call.k);
    rw::rows_view<C> rows;
    rows.cos = static_cast<const C*>(call.rows.cos);
    rows.sin = static_cast<const C*>(call.rows.sin);
    rows.table_rows = call.rows.table_rows;
    rows.heads = call.rows.table_heads;
    rows.pairs = call.rows.pairs;
    rows.row_stride = call.rows.row_stride;
    rows.head_stride = call.rows.head_stride;
    rows.tokens = call.batches * call.tokens;  // as many as is_call has found
    rows.indices.narrow = call.rows.row_of_token;
    rows.indices.wide = call.rows.row_of_token_64;
    rows.magnitude = call.rows.magnitude;
    const rw::part_of part{call.parts, call.part};
    const rw::pair_layout layout = layout_of(call);
    if (k.empty()) {
        if (call.turn == ROPEWALK_ROTATE) return rw::rotate(layout, q, rows, part);
        if (call.turn == ROPEWALK_UNROTATE) return rw::unrotate(layout, q, rows, part);
        return rw::rotate_gradient(layout, q, rows, part);
    }
    if (call.turn == ROPEWALK_ROTATE) return rw::rotate(layout, q, k, rows, part);
    if (call.turn == ROPEWALK_UNROTATE) return rw::unrotate(layout, q, k, rows, part);
    return rw::rotate_gradient(layout, q, k, rows, part);
}

}  // namespace

extern "C" int UNIT_NAME(ROPEWALK_DISPATCH_UNIT)(const ropewalk_rotate_call* call);
extern "C" int UNIT_NAME(ROPEWALK_DISPATCH_UNIT)(const ropewalk_rotate_call* call) {
    if (call == nullptr || !is_call(*call)) return ROPEWALK_BAD_CALL;
    switch (call->dtype) {
        case ROPEWALK_F64: run<double>(*call); break;
        case ROPEWALK_F32: run<float>(*call); break;
        case ROPEWALK_F16: run<rw::f16>(*call); break;
        default: run<rw::bf16>(*call); break;
    }
    return ROPEWALK_OK;
}
