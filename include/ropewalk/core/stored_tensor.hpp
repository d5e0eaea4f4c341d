// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A named tensor of a checkpoint, as readers of weight files return it.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// A tensor of a checkpoint as its reader returns it: numbers in row-major order, and their extents. A
/// function that takes weights by name takes a callable std::string_view -> stored_tensor<T>. A tensor
/// without extents is not in the file.
///
///     const auto tensors = [&](std::string_view name) { return stored_tensor<float>{file.floats(name), file.shape(name)}; };
template <class T>
struct stored_tensor {
    std::span<const T> values = {};   ///< row-major
    std::vector<index> extents = {};  ///< empty: there is no such tensor
};

}  // namespace ROPEWALK_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

inline std::string extents_text(std::span<const index> extents) {
    std::string text = "[";
    for (const index n : extents)
        text += (text.size() > 1 ? ", " : "") + number_text(static_cast<long long>(n));
    return text + "]";
}

/// The numbers of a tensor that must have these extents. Throws: invalid_config naming the tensor otherwise.
template <class T, class Tensors>
std::span<const T> tensor_of(const char* who, Tensors& tensors, std::string_view name,
                             std::initializer_list<index> extents) {
    const stored_tensor<T> x = tensors(name);
    const std::span<const index> wanted(extents.begin(), extents.size());
    index count = 1;
    bool same = x.extents.size() == wanted.size();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        same = same && x.extents[i] == wanted[i];
        count *= wanted[i];
    }
    if (!same)
        refuse(who, (std::string(name) + " must be " + extents_text(wanted)).c_str(),
               x.extents.empty() ? std::string("none") : extents_text(x.extents));
    if (static_cast<index>(x.values.size()) != count)
        refuse(who, (std::string(name) + " must hold the numbers of its extents").c_str(),
               static_cast<long long>(x.values.size()));
    return x.values;
}

}  // namespace ROPEWALK_NAMESPACE::detail
