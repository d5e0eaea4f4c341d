// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Memory for a heads_view with gaps between heads, tokens and batches and at both ends, all of it canaries.

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include <ropewalk/core/heads_view.hpp>

namespace support {

namespace rw = ropewalk;

template <class T>
class heads_buffer {
  public:
    /// `gap` unused elements behind every head, token and batch; `shift` elements off the alignment.
    explicit heads_buffer(rw::heads_shape shape, rw::index gap = 0, rw::index shift = 0) : shape_(shape) {
        strides_.head = shape.channels + gap;
        strides_.token = shape.heads * strides_.head + gap;
        strides_.batch = shape.tokens * strides_.token + gap;
        first_ = 32 + shift;
        values_.resize(static_cast<std::size_t>(first_ + shape.batches * strides_.batch + 32));
        std::memset(static_cast<void*>(values_.data()), 0x5a, values_.size() * sizeof(T));
    }
    rw::heads_view<T> view() { return {values_.data() + first_, shape_, strides_}; }

    /// Standard normal numbers, rounded to the storage format, the same for every stride and shift.
    heads_buffer& fill(unsigned seed) {
        std::mt19937 engine(seed);
        std::normal_distribution<double> normal;
        each([&](T& x) { x = T(static_cast<rw::compute_t<T>>(normal(engine))); });
        return *this;
    }
    template <class F>
    void each(F f) {
        auto v = view();
        for (rw::index b = 0; b < shape_.batches; ++b)
            for (rw::index n = 0; n < shape_.tokens; ++n)
                for (rw::index h = 0; h < shape_.heads; ++h)
                    for (rw::index i = 0; i < shape_.channels; ++i) f(v.at(b, n, h)[i]);
    }
    /// The elements of the view, densely.
    std::vector<T> dense() {
        std::vector<T> out;
        each([&](T& x) { out.push_back(x); });
        return out;
    }
    std::vector<double> numbers() {
        std::vector<double> out;
        each([&](T& x) { out.push_back(static_cast<double>(static_cast<rw::compute_t<T>>(x))); });
        return out;
    }
    /// Whether every byte outside the view still holds its canary.
    bool canaries_alive() {
        std::vector<unsigned char> bytes(values_.size() * sizeof(T));
        std::memcpy(bytes.data(), values_.data(), bytes.size());
        auto v = view();
        for (rw::index b = 0; b < shape_.batches; ++b)
            for (rw::index n = 0; n < shape_.tokens; ++n)
                for (rw::index h = 0; h < shape_.heads; ++h) {
                    const auto at = static_cast<std::size_t>(v.at(b, n, h) - values_.data()) * sizeof(T);
                    std::memset(bytes.data() + at, 0x5a,
                                static_cast<std::size_t>(shape_.channels) * sizeof(T));
                }
        return std::all_of(bytes.begin(), bytes.end(), [](unsigned char c) { return c == 0x5a; });
    }

  private:
    rw::heads_shape shape_;
    rw::heads_strides strides_;
    rw::index first_ = 0;
    std::vector<T> values_;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace support
