// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// ONNX Runtime's RotaryEmbedding: a model of two nodes, its inputs and outputs bound once, one thread. The
// node is com.microsoft's, which releases before opset 23 have too; the standard one has the same kernel.
#include <array>

#include <onnxruntime_cxx_api.h>

#include "peers/peer.hpp"

namespace {

namespace rw = ropewalk;

/// The little of the protobuf wire format that a model of two nodes takes: numbers and texts by field.
class message {
  public:
    message& number(unsigned field, std::uint64_t value) {
        varint(field << 3);
        varint(value);
        return *this;
    }
    message& text(unsigned field, const std::string& value) {
        varint(field << 3 | 2);
        varint(value.size());
        bytes_ += value;
        return *this;
    }
    message& part(unsigned field, const message& value) { return text(field, value.bytes_); }
    const std::string& bytes() const { return bytes_; }

  private:
    void varint(std::uint64_t value) {
        for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
        bytes_ += static_cast<char>(value);
    }
    std::string bytes_;
};

// The field numbers below are those of onnx.proto.
message tensor_input(const std::string& name, ONNXTensorElementDataType type,
                     const std::vector<std::int64_t>& shape) {
    message dims;
    for (const std::int64_t extent : shape)
        dims.part(1, message().number(1, static_cast<std::uint64_t>(extent)));
    const message tensor = message().number(1, type).part(2, dims);
    return message().text(1, name).part(2, message().part(1, tensor));
}

template <class Layout, class T>
class ort_work {
  public:
    using layout = Layout;
    using element = T;

    explicit ort_work(peers::layer<T>& x)
        : positions_(x.positions.begin(), x.positions.end()), q_(x.q.size()), k_(x.k.size()) {
        for (rw::index row = 0; row < peers::context; ++row)
            for (rw::index i = 0; i < peers::pairs; ++i) {
                cos_.push_back(T(x.angles.cos_row(row)[static_cast<std::size_t>(i)]));
                sin_.push_back(T(x.angles.sin_row(row)[static_cast<std::size_t>(i)]));
            }
        const std::string model = two_nodes(x.tokens);
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1).SetInterOpNumThreads(1);
        session_ = Ort::Session(environment(), model.data(), model.size(), options);
        binding_ = Ort::IoBinding(session_);
        const std::vector<std::int64_t> q_shape = shape_of(x.tokens, peers::q_heads),
                                        k_shape = shape_of(x.tokens, peers::k_heads);
        binding_.BindInput("q", over(x.q.data(), q_shape));
        binding_.BindInput("k", over(x.k.data(), k_shape));
        binding_.BindInput("positions", over(positions_.data(), {1, x.tokens}));
        binding_.BindInput("cos", over(cos_.data(), table_shape));
        binding_.BindInput("sin", over(sin_.data(), table_shape));
        binding_.BindOutput("rotated_q", over(q_.data(), q_shape));
        binding_.BindOutput("rotated_k", over(k_.data(), k_shape));
    }

    void run() { session_.Run(Ort::RunOptions{nullptr}, binding_); }
    const T* q() const { return q_.data(); }
    const T* k() const { return k_.data(); }

  private:
    static inline const std::vector<std::int64_t> table_shape{peers::context, peers::pairs};
    static constexpr ONNXTensorElementDataType type = std::is_same_v<T, float>
                                                          ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

    static Ort::Env& environment() {
        static Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
        return env;
    }
    static std::vector<std::int64_t> shape_of(rw::index tokens, rw::index heads) {
        return {1, tokens, heads * peers::dim};
    }
    template <class U>
    static Ort::Value over(U* data, const std::vector<std::int64_t>& shape) {
        std::size_t count = 1;
        for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
        return Ort::Value::CreateTensor(
            Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), data, count * sizeof(U),
            shape.data(), shape.size(),
            std::is_same_v<U, std::int64_t> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : type);
    }

    static std::string two_nodes(rw::index tokens) {
        message graph;
        for (const std::string name : {"q", "k"}) {
            message node;
            for (const std::string& input :
                 {name, std::string("positions"), std::string("cos"), std::string("sin")})
                node.text(1, input);
            node.text(2, "rotated_" + name).text(4, "RotaryEmbedding").text(7, "com.microsoft");
            constexpr unsigned int_attribute = 2;
            node.part(5, message()
                             .text(1, "interleaved")
                             .number(3, std::is_same_v<Layout, rw::interleaved>)
                             .number(20, int_attribute));
            graph.part(1, node);
        }
        graph.text(2, "layer");
        const auto q_shape = shape_of(tokens, peers::q_heads), k_shape = shape_of(tokens, peers::k_heads);
        graph.part(11, tensor_input("q", type, q_shape)).part(11, tensor_input("k", type, k_shape));
        graph.part(11, tensor_input("positions", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {1, tokens}));
        graph.part(11, tensor_input("cos", type, table_shape))
            .part(11, tensor_input("sin", type, table_shape));
        graph.part(12, tensor_input("rotated_q", type, q_shape));
        graph.part(12, tensor_input("rotated_k", type, k_shape));
        return message()
            .number(1, 8)  // the format's version
            .part(7, graph)
            .part(8, message().text(1, "").number(2, 17))
            .part(8, message().text(1, "com.microsoft").number(2, 1))
            .bytes();
    }

    std::vector<std::int64_t> positions_;
    bench::tensor<T> cos_, sin_, q_, k_;
    Ort::Session session_{nullptr};
    Ort::IoBinding binding_{nullptr};
};

// In f16 its tables are f16 too: half an ulp of 1 (2.4e-4) times two numbers of up to 5.5, and two roundings.
const int registered = [] {
    const peers::description ort{
        .name = "onnxruntime", .version = OrtGetApiBase()->GetVersionString(), .most_apart = 1e-5};
    peers::add<ort_work<rw::half_split, float>>(ort);
    peers::add<ort_work<rw::interleaved, float>>(ort);
    peers::add<ort_work<rw::half_split, rw::f16>>({ort.name, ort.version, 1e-2});
    return 0;
}();

}  // namespace
