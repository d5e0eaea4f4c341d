// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/onnx.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

namespace onnx_operator {

namespace rw = ropewalk;
using index = rw::index;
using dims = std::vector<std::int64_t>;

namespace {

template <class T>
T narrow(double v) {
    return static_cast<T>(static_cast<rw::compute_t<T>>(v));
}
template <class T>
double wide(T v) {
    return static_cast<double>(static_cast<rw::compute_t<T>>(v));
}

template <class T>
std::vector<T> random_values(std::int64_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::vector<T> values;
    for (std::int64_t i = 0; i < count; ++i)
        values.push_back(narrow<T>(static_cast<double>(engine()) / 1073741824.0 - 2.0));
    return values;
}

/// A call that is right, for the tests to spoil: 2 batches, 3 heads, 4 tokens, heads of 10, 9 positions.
struct call {
    dims x_dims{2, 3, 4, 10}, cos_dims{9, 5}, sin_dims{9, 5}, id_dims{2, 4};
    std::vector<float> x = random_values<float>(240, 1), cos = random_values<float>(60, 2),
                       sin = random_values<float>(60, 3), y = std::vector<float>(240);
    std::vector<std::int64_t> ids{0, 8, 3, 3, 1, 2, 7, 5};
    rw::onnx::rotary_embedding_attributes attributes;

    void run() {
        rw::onnx::rotary_embedding<float>({.x = {x.data(), x_dims},
                                           .cos_cache = {cos.data(), cos_dims},
                                           .sin_cache = {sin.data(), sin_dims},
                                           .position_ids = {ids.data(), id_dims}},
                                          y.data(), attributes);
    }
};

}  // namespace

TEST_CASE("onnx: each pair turns by the cos and sin of its position", "[schemes][onnx]") {
    for (std::int64_t interleaved : {0, 1})
        for (std::int64_t rotary_dim : {0, 6, 10}) {
            call c;
            c.attributes = {.interleaved = interleaved, .rotary_embedding_dim = rotary_dim};
            const std::int64_t turning = rotary_dim == 0 ? 10 : rotary_dim, pairs = turning / 2;
            c.cos_dims = c.sin_dims = {9, pairs};
            c.run();
            INFO("interleaved " << interleaved << ", rotary_embedding_dim " << rotary_dim);
            for (std::int64_t b = 0; b < 2; ++b)
                for (std::int64_t h = 0; h < 3; ++h)
                    for (std::int64_t n = 0; n < 4; ++n) {
                        const float* x = c.x.data() + ((b * 3 + h) * 4 + n) * 10;
                        const float* y = c.y.data() + ((b * 3 + h) * 4 + n) * 10;
                        const std::int64_t row = c.ids[b * 4 + n] * pairs;
                        for (std::int64_t i = 0; i < pairs; ++i) {
                            const std::int64_t u = interleaved ? 2 * i : i,
                                               v = interleaved ? u + 1 : i + pairs;
                            const double cos = c.cos[row + i], sin = c.sin[row + i];
                            const double norm = std::hypot(x[u], x[v]) * std::hypot(cos, sin);
                            CHECK(std::abs(y[u] - (x[u] * cos - x[v] * sin)) <= 2 * 0x1p-23 * norm);
                            CHECK(std::abs(y[v] - (x[u] * sin + x[v] * cos)) <= 2 * 0x1p-23 * norm);
                        }
                        for (std::int64_t i = turning; i < 10; ++i) CHECK(y[i] == x[i]);
                    }
        }
}

TEST_CASE("onnx: rank 3 is rank 4 with the heads beside the channels", "[schemes][onnx][reduces]") {
    call c;
    c.run();
    call flat;
    flat.x_dims = {2, 4, 30};
    flat.attributes.num_heads = 3;
    const auto to = [](std::int64_t b, std::int64_t h, std::int64_t n) { return ((b * 4 + n) * 3 + h) * 10; };
    const auto from = [](std::int64_t b, std::int64_t h, std::int64_t n) {
        return ((b * 3 + h) * 4 + n) * 10;
    };
    std::vector<float> expected(240);
    for (std::int64_t b = 0; b < 2; ++b)
        for (std::int64_t h = 0; h < 3; ++h)
            for (std::int64_t n = 0; n < 4; ++n) {
                std::copy_n(c.x.begin() + from(b, h, n), 10, flat.x.begin() + to(b, h, n));
                std::copy_n(c.y.begin() + from(b, h, n), 10, expected.begin() + to(b, h, n));
            }
    flat.run();
    CHECK(flat.y == expected);
}

TEST_CASE("onnx: gathering by position is giving each token its own row", "[schemes][onnx][reduces]") {
    call c;
    c.run();
    call listed;
    listed.cos_dims = listed.sin_dims = {2, 4, 5};
    listed.id_dims.clear();
    std::vector<float> cos, sin;
    for (std::int64_t id : c.ids) {
        cos.insert(cos.end(), c.cos.begin() + id * 5, c.cos.begin() + id * 5 + 5);
        sin.insert(sin.end(), c.sin.begin() + id * 5, c.sin.begin() + id * 5 + 5);
    }
    listed.cos = cos;
    listed.sin = sin;
    listed.run();
    CHECK(listed.y == c.y);
}

TEST_CASE("onnx: in place gives the same bits", "[schemes][onnx]") {
    for (std::int64_t rotary_dim : {10, 4}) {
        call c;
        c.attributes.rotary_embedding_dim = rotary_dim;
        c.cos_dims = c.sin_dims = {9, rotary_dim / 2};
        c.run();
        rw::onnx::rotary_embedding<float>({.x = {c.x.data(), c.x_dims},
                                           .cos_cache = {c.cos.data(), c.cos_dims},
                                           .sin_cache = {c.sin.data(), c.sin_dims},
                                           .position_ids = {c.ids.data(), c.id_dims}},
                                          c.x.data(), c.attributes);
        CHECK(c.x == c.y);
    }
}

TEST_CASE("onnx: caches of cos and sin are an ordinary rotation", "[schemes][onnx][reduces]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 10});
    const auto table = rw::make_rotation_table<float>(rope, rw::position_ids::text(9));
    call c;
    for (index p = 0; p < 9; ++p) {
        std::copy_n(table.cos_row(p).begin(), 5, c.cos.begin() + p * 5);
        std::copy_n(table.sin_row(p).begin(), 5, c.sin.begin() + p * 5);
    }
    c.run();
    rw::rotate(rw::half_split{},
               rw::heads_view<float>::heads_first(c.x.data(),
                                                  {.batches = 2, .tokens = 4, .heads = 3, .channels = 10}),
               table.rows(std::span<const std::int64_t>(c.ids)));
    CHECK(c.y == c.x);
}

TEMPLATE_TEST_CASE("onnx: 16-bit tensors are computed in f32 and rounded once", "[schemes][onnx]", rw::f16,
                   rw::bf16) {
    using T = TestType;
    const double half_ulp = std::is_same_v<T, rw::f16> ? 0x1p-11 : 0x1p-8;
    const dims x_dims{1, 2, 3, 16}, cache_dims{7, 8}, id_dims{1, 3};
    const auto x = random_values<T>(96, 4), cos = random_values<T>(56, 5), sin = random_values<T>(56, 6);
    std::vector<float> cos32, sin32;
    for (std::size_t i = 0; i < cos.size(); ++i) {
        cos32.push_back(static_cast<float>(cos[i]));
        sin32.push_back(static_cast<float>(sin[i]));
    }
    const std::vector<std::int64_t> ids{6, 0, 6};
    std::vector<T> y(96), from32(96);
    rw::onnx::rotary_embedding<T>({.x = {x.data(), x_dims},
                                   .cos_cache = {cos.data(), cache_dims},
                                   .sin_cache = {sin.data(), cache_dims},
                                   .position_ids = {ids.data(), id_dims}},
                                  y.data());
    rw::onnx::rotary_embedding<T, float>({.x = {x.data(), x_dims},
                                          .cos_cache = {cos32.data(), cache_dims},
                                          .sin_cache = {sin32.data(), cache_dims},
                                          .position_ids = {ids.data(), id_dims}},
                                         from32.data());
    for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t n = 0; n < 3; ++n)
            for (std::int64_t i = 0; i < 8; ++i) {
                const std::int64_t at = (h * 3 + n) * 16 + i, row = ids[n] * 8 + i;
                const double u = wide(x[at]), v = wide(x[at + 8]), c = wide(cos[row]), s = wide(sin[row]);
                const double norm = std::hypot(u, v) * std::hypot(c, s);
                const double first = u * c - v * s, second = u * s + v * c;
                CHECK(std::abs(wide(y[at]) - first) <= half_ulp * std::abs(first) + 2 * 0x1p-23 * norm);
                CHECK(std::abs(wide(y[at + 8]) - second) <= half_ulp * std::abs(second) + 2 * 0x1p-23 * norm);
                CHECK(y[at].bits == from32[at].bits);
                CHECK(y[at + 8].bits == from32[at + 8].bits);
            }
}

TEST_CASE("onnx: nothing to do is legal", "[schemes][onnx]") {
    for (std::size_t axis : {0, 1, 2}) {
        call c;
        c.x_dims[axis] = 0;
        if (axis == 0) c.id_dims[0] = 0;
        if (axis == 2) c.id_dims[1] = 0;
        c.y.assign(c.y.size(), -1.0F);
        c.run();
        CHECK(c.y == std::vector<float>(240, -1.0F));
    }
}

TEST_CASE("onnx: what does not fit is refused by name", "[schemes][onnx][errors]") {
    struct bad {
        const char* message;
        void (*spoil)(call&);
    };
    const bad cases[] = {
        {"x must have rank 3 or 4, got [2,3]",
         [](call& c) {
             c.x_dims = {2, 3};
         }},
        {"x must have dimensions >= 0, got [2,-3,4,10]", [](call& c) { c.x_dims[1] = -3; }},
        {"x must have dimensions >= 0, got an overflowing size",
         [](call& c) {
             c.x_dims = {std::int64_t{1} << 40, std::int64_t{1} << 40, 4, 10};
         }},
        {"interleaved must be 0 or 1, got 2", [](call& c) { c.attributes.interleaved = 2; }},
        {"num_heads must be >= 0, got -1", [](call& c) { c.attributes.num_heads = -1; }},
        {"num_heads must be 0 or the heads of x, got 2", [](call& c) { c.attributes.num_heads = 2; }},
        {"num_heads must be > 0 for a rank-3 x, got 0",
         [](call& c) {
             c.x_dims = {2, 4, 30};
         }},
        {"num_heads must divide the last dimension of x, got 4",
         [](call& c) {
             c.x_dims = {2, 4, 30};
             c.attributes.num_heads = 4;
         }},
        {"rotary_embedding_dim must be 0 .. head_size, got 12",
         [](call& c) { c.attributes.rotary_embedding_dim = 12; }},
        {"rotary_embedding_dim must be 0 .. head_size, got -2",
         [](call& c) { c.attributes.rotary_embedding_dim = -2; }},
        {"the channels that rotate must be even, got 5",
         [](call& c) { c.attributes.rotary_embedding_dim = 5; }},
        {"sin_cache must be shaped like cos_cache, got [8,5]", [](call& c) { c.sin_dims[0] = 8; }},
        {"cos_cache must end in half the channels that rotate, got [9,4]",
         [](call& c) {
             c.cos_dims = c.sin_dims = {9, 4};
         }},
        {"cos_cache must have rank 2 beside position_ids, got [2,4,5]",
         [](call& c) {
             c.cos_dims = c.sin_dims = {2, 4, 5};
         }},
        {"cos_cache must have rank 3 without position_ids, got [9,5]", [](call& c) { c.id_dims.clear(); }},
        {"cos_cache must be [batch, seq, rotary / 2], got [2,3,5]",
         [](call& c) {
             c.id_dims.clear();
             c.cos_dims = c.sin_dims = {2, 3, 5};
         }},
        {"position_ids must be [batch, seq], got [4,2]",
         [](call& c) {
             c.id_dims = {4, 2};
         }},
        {"position_ids must be rows of cos_cache, got 9", [](call& c) { c.ids[5] = 9; }},
        {"position_ids must be rows of cos_cache, got -1", [](call& c) { c.ids[0] = -1; }},
    };
    for (const bad& b : cases) {
        call c;
        b.spoil(c);
        INFO(b.message);
        c.y.assign(c.y.size(), -1.0F);
        CHECK_THROWS_AS(c.run(), rw::invalid_config);
        try {
            c.run();
        } catch (const rw::invalid_config& e) {
            CHECK(std::string(e.what()) == std::string("onnx::rotary_embedding: ") + b.message);
        }
        CHECK(c.y == std::vector<float>(240, -1.0F));
    }
}

}  // namespace onnx_operator
