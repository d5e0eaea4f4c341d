// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every struct of the C interface but ropewalk_rotate_call (see random_calls.cpp): a good one, then each
// field wrong alone, each two of them wrong together, and random ones. What cannot be has to be refused with
// nothing written, what is refused has to be explained, and a call has to say what its explanation said.
// Structs that are right but for the memory they claim cannot be told by the library, so they are only
// explained.
//
//     random_structs [structs] [seed]
#include "random_tester.hpp"

namespace {

ropewalk_spectrum* make_spectrum(std::ptrdiff_t rotary_dim) {
    ropewalk_spectrum_options o = ropewalk_new_spectrum_options();
    o.rotary_dim = rotary_dim;
    ropewalk_spectrum* s = nullptr;
    if (ropewalk_make_spectrum(&o, &s, nullptr, 0) != ROPEWALK_OK) std::abort();
    return s;
}

constexpr std::ptrdiff_t tokens = 3, pairs = 16, channels = 32, heads = 2;
ropewalk_tensor tensor(arena& m, int piece) {
    return {m.at(piece), heads, tokens * heads * channels, heads * channels, channels};
}
ropewalk_rows rows(arena& m, int kind, const ropewalk_spectrum* spectrum) {
    static const std::int32_t narrow[4096] = {1, -1, 4};
    static const std::int64_t broad[4096] = {3, 0, -7};
    if (kind == 3) return ropewalk_rows_on_the_fly(spectrum, narrow, tokens);
    ropewalk_rows r{};
    r.cos = m.at(of_cos), r.sin = m.at(of_sin);
    r.table_rows = 5, r.table_heads = 1, r.pairs = r.row_stride = pairs;
    if (kind == 1) r.row_of_token = narrow, r.row_count = 4096;
    if (kind == 2) r.row_of_token_64 = broad, r.row_count = 4096;
    return r;
}
template <class Call>
void shape(Call& c) {
    c.layout = ROPEWALK_HALF_SPLIT, c.tokens = tokens, c.channels = channels;
}

void test_into(tester& t, int kind, const ropewalk_spectrum* spectrum) {
    using call = ropewalk_into_call;
    arena m;
    fields all = {
        NEEDED(call, size, size),      NEEDED(call, word, version),     NEEDED(call, word, from_dtype),
        NEEDED(call, word, to_dtype),  NEEDED(call, word, layout),      NEEDED(call, word, write_layout),
        NEEDED(call, word, direction), NEEDED(call, word, unrotated),   NEEDED(call, word, reserved),
        FIELD(call, count, group),     FIELD(call, count, write_group), NEEDED(call, count, batches),
        NEEDED(call, count, tokens),   NEEDED(call, count, channels),   NEEDED(call, count, first_channel),
        NEEDED(call, count, parts),    NEEDED(call, count, part)};
    add(all, offsetof(call, from), tensor_fields), add(all, offsetof(call, to), tensor_fields);
    add(all, offsetof(call, rows), rows_fields, kind == 0);
    call good = ropewalk_new_into_call();
    shape(good);
    good.from_dtype = ROPEWALK_F32, good.to_dtype = ROPEWALK_BF16;
    good.from = tensor(m, of_q), good.to = tensor(m, of_out), good.rows = rows(m, kind, spectrum);
    t.run<call>(
        "into", all, m, good, [](const call& c) { return ropewalk_rotate_into(&c); },
        [](const call& c, char* text, std::size_t n) { return ropewalk_explain_rotate_into(&c, text, n); },
        [](const call& c) {
            const wide head = c.channels == 0 ? 2 * wide(c.rows.pairs) : c.channels;
            return is_there(c, c.from, head, c.from_dtype) && is_there(c.rows, c.batches, c.tokens) &&
                   is_there(c, c.to, head, c.to_dtype == 0 ? c.from_dtype : c.to_dtype);
        },
        [](const call& c) { return entries_are_there(c.rows, c.batches, c.tokens); });
}

void test_normalize(tester& t, int kind, const ropewalk_spectrum* spectrum) {
    using call = ropewalk_normalize_call;
    arena m;
    fields all = {NEEDED(call, size, size),           NEEDED(call, word, version),
                  NEEDED(call, word, dtype),          NEEDED(call, word, layout),
                  NEEDED(call, word, write_layout),   NEEDED(call, word, normalize_all),
                  NEEDED(call, word, reserved),       FIELD(call, count, group),
                  FIELD(call, count, write_group),    NEEDED(call, count, batches),
                  NEEDED(call, count, tokens),        NEEDED(call, count, channels),
                  NEEDED(call, count, first_channel), NEEDED(call, count, parts),
                  NEEDED(call, count, part)};
    add(all, offsetof(call, q), tensor_fields), add(all, offsetof(call, k), tensor_fields);
    add(all, offsetof(call, q_norm), norm_fields), add(all, offsetof(call, k_norm), norm_fields);
    add(all, offsetof(call, rows), rows_fields, kind == 0);
    call good = ropewalk_new_normalize_call();
    shape(good);
    good.dtype = kind == 1 ? ROPEWALK_F64 : ROPEWALK_F16;
    good.q = tensor(m, of_q), good.k = tensor(m, of_k), good.rows = rows(m, kind, spectrum);
    good.q_norm.weight = good.k_norm.weight = m.at(of_weight);
    t.run<call>(
        "normalize", all, m, good, [](const call& c) { return ropewalk_normalize_and_rotate(&c); },
        [](const call& c, char* text, std::size_t n) {
            return ropewalk_explain_normalize_and_rotate(&c, text, n);
        },
        [](const call& c) {
            const wide head = c.channels == 0 ? 2 * wide(c.rows.pairs) : c.channels;
            return is_there(c, c.q, head, c.dtype) && is_there(c, c.k, head, c.dtype) &&
                   is_there(c.q_norm, head) && is_there(c.k_norm, head) &&
                   is_there(c.rows, c.batches, c.tokens);
        },
        [](const call& c) { return entries_are_there(c.rows, c.batches, c.tokens); });
}

ropewalk_cache cache(arena& m, int piece, std::int32_t dtype) {
    const std::ptrdiff_t row = dtype >= ROPEWALK_Q8_0 ? channels / 32 : channels;
    ropewalk_cache c{};
    c.data = m.at(piece), c.scale = 0.5;
    c.page_stride = 4 * heads * row, c.token_stride = heads * row, c.head_stride = row;
    if (dtype == ROPEWALK_INT8) {
        c.scales = static_cast<float*>(m.at(piece + of_key_scales - of_keys));
        c.scale_page_stride = 4 * heads, c.scale_token_stride = heads, c.scale_head_stride = 1;
    }
    return c;
}
const std::int64_t slots[] = {5, -1, 0};

void test_attention(tester& t, int kind, std::int32_t dtype, std::int32_t cache_dtype,
                    const ropewalk_spectrum* spectrum) {
    using call = ropewalk_attention_call;
    arena m;
    fields all = {NEEDED(call, size, size),
                  NEEDED(call, word, version),
                  NEEDED(call, word, dtype),
                  NEEDED(call, word, cache_dtype),
                  NEEDED(call, word, layout),
                  NEEDED(call, word, write_layout),
                  NEEDED(call, word, reserved),
                  FIELD(call, count, group),
                  FIELD(call, count, write_group),
                  NEEDED(call, count, batches),
                  NEEDED(call, count, tokens),
                  NEEDED(call, count, channels),
                  NEEDED(call, count, value_channels),
                  NEEDED(call, count, first_channel),
                  NEEDED(call, count, pages),
                  NEEDED(call, count, page_tokens),
                  NEEDED(call, count, parts),
                  NEEDED(call, count, part),
                  FIELD(call, pointer, plan)};
    add(all, offsetof(call, key), tensor_fields), add(all, offsetof(call, value), tensor_fields);
    add(all, offsetof(call, key_cache), cache_fields), add(all, offsetof(call, value_cache), cache_fields);
    fields of_plan;
    add(of_plan, 0, all, false);
    add(all, offsetof(call, q), tensor_fields, false), add(all, offsetof(call, q_out), tensor_fields, false);
    add(all, offsetof(call, q_norm), norm_fields, false),
        add(all, offsetof(call, k_norm), norm_fields, false);
    add(all, offsetof(call, rows), rows_fields, kind == 0);
    call good = ropewalk_new_attention_call();
    shape(good);
    good.dtype = dtype, good.cache_dtype = cache_dtype;
    good.key = tensor(m, of_k), good.value = tensor(m, of_v), good.rows = rows(m, kind, spectrum);
    good.q = tensor(m, of_q), good.q_out = tensor(m, of_out);
    good.q_norm.weight = good.k_norm.weight = m.at(of_weight);
    good.pages = 2, good.page_tokens = 4;
    good.key_cache = cache(m, of_keys, cache_dtype), good.value_cache = cache(m, of_values, cache_dtype);
    ropewalk_plan* plan = nullptr;
    if (ropewalk_make_plan(&good, slots, tokens, &plan, nullptr, 0) != ROPEWALK_OK) std::abort();
    good.plan = plan;
    const auto there = [&](const call& c) {
        return is_there(c, c.q, c.channels, c.dtype) && is_there(c, c.q_out, c.channels, c.dtype) &&
               is_there(c, c.key, c.channels, c.dtype) &&
               is_there(c, c.value, c.value_channels == 0 ? c.channels : c.value_channels, c.dtype) &&
               is_there(c.q_norm, c.channels) && is_there(c.k_norm, c.channels) &&
               is_there(c.rows, c.batches, c.tokens);
    };
    t.run<call>(
        "append", all, m, good, [](const call& c) { return ropewalk_append(&c); },
        [](const call& c, char* text, std::size_t n) { return ropewalk_explain_append(&c, text, n); }, there,
        [](const call& c) { return entries_are_there(c.rows, c.batches, c.tokens); });
    t.run<call>(
        "prepare", all, m, good, [](const call& c) { return ropewalk_prepare_attention(&c); },
        [](const call& c, char* text, std::size_t n) {
            return ropewalk_explain_prepare_attention(&c, text, n);
        },
        there, [](const call& c) { return entries_are_there(c.rows, c.batches, c.tokens); });
    t.run<call>(
        "plan", of_plan, m, good,
        [](const call& c) {
            ropewalk_plan* made = nullptr;
            const int status = ropewalk_make_plan(&c, slots, tokens, &made, nullptr, 0);
            ropewalk_free_plan(made);
            return status;
        },
        {}, [](const call&) { return true; });
    ropewalk_free_plan(plan);
}

void test_shift(tester& t, int kind, std::int32_t dtype, const ropewalk_spectrum* spectrum) {
    using call = ropewalk_shift_call;
    arena m;
    fields all = {
        NEEDED(call, size, size),   NEEDED(call, word, version),      NEEDED(call, word, dtype),
        NEEDED(call, word, layout), NEEDED(call, word, reserved),     FIELD(call, count, group),
        NEEDED(call, count, heads), NEEDED(call, count, channels),    NEEDED(call, count, first_channel),
        NEEDED(call, count, pages), NEEDED(call, count, page_tokens), NEEDED(call, count, parts),
        NEEDED(call, count, part),  FIELD(call, pointer, plan)};
    add(all, offsetof(call, keys), cache_fields);
    add(all, offsetof(call, rows), rows_fields, kind == 0);
    call good = ropewalk_new_shift_call();
    good.dtype = dtype, good.layout = ROPEWALK_HALF_SPLIT, good.heads = heads, good.channels = channels;
    good.keys = cache(m, of_keys, dtype), good.pages = 2, good.page_tokens = 4,
    good.rows = rows(m, kind, spectrum);
    ropewalk_plan* plan = nullptr;
    if (ropewalk_make_shift_plan(&good, slots, tokens, &plan, nullptr, 0) != ROPEWALK_OK) std::abort();
    good.plan = plan;
    t.run<call>(
        "shift", all, m, good, [](const call& c) { return ropewalk_shift_keys(&c); },
        [](const call& c, char* text, std::size_t n) { return ropewalk_explain_shift_keys(&c, text, n); },
        [](const call& c) { return is_there(c.rows, 1, tokens); },
        [](const call& c) { return entries_are_there(c.rows, 1, tokens); });
    ropewalk_free_plan(plan);
}

}  // namespace

#include "random_options.hpp"

int main(int argc, char** argv) {
    const long structs = argc > 1 ? std::atol(argv[1]) : 20000;
    tester t(structs / 50 + 1, argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
    ropewalk_spectrum* spectrum = make_spectrum(channels);
    for (std::ptrdiff_t u = 0; ropewalk_available_unit(u) != nullptr; ++u) {
        static_cast<void>(ropewalk_use_unit(ropewalk_available_unit(u)));
        for (int kind = 0; kind < 4 && t.failures < 20; ++kind) {
            test_into(t, kind, spectrum);
            test_normalize(t, kind == 1 ? 3 : kind, spectrum);
            test_attention(t, kind, ROPEWALK_F32, ROPEWALK_INT8 + kind, spectrum);
            test_attention(t, kind, ROPEWALK_BF16, kind < 2 ? int(ROPEWALK_BF16) : int(ROPEWALK_Q4_0),
                           spectrum);
            for (const std::int32_t dtype :
                 {ROPEWALK_F32, ROPEWALK_F16, ROPEWALK_INT8, ROPEWALK_F8_E5M2, ROPEWALK_Q8_0})
                test_shift(t, kind, dtype, spectrum);
        }
    }
    test_options(t, spectrum);
    ropewalk_free_spectrum(spectrum);
    std::printf("%ld done, %ld refused, %ld only explained; %ld failures\n", t.done, t.refused, t.explained,
                t.failures);
    return t.failures == 0 && t.done > 0 && t.refused > t.done / 20 ? 0 : 1;
}
