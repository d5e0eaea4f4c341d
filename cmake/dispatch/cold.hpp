// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What handles.cpp, plans.cpp and models.cpp share. Compiled for the baseline and with exceptions, which end
// here: a status is what leaves. Sealed as the units are, so that the program's own copies of the library
// stay its own.
#include "unit_checks.hpp"

#include <ropewalk/frequencies/spectrum.hpp>

#include <cstdio>
#include <exception>
#include <new>

/// First of it is what units read; see spectrum_of in unit_views.hpp.
struct ropewalk_spectrum {
    ropewalk::spectrum value;
};

namespace ROPEWALK_NAMESPACE::dispatch_unit {

inline int said(const char* words, char* text, std::size_t size, int status) noexcept {
    if (text != nullptr && size > 0) std::snprintf(text, size, "%s", words);
    return status;
}

/// Runs a maker: its exceptions become a status and a text.
template <class F>
int answered(char* text, std::size_t size, F make) noexcept {
    try {
        make();
        return said("made", text, size, ROPEWALK_OK);
    } catch (const std::bad_alloc&) {
        return said("not enough memory", text, size, ROPEWALK_NO_MEMORY);
    } catch (const std::exception& e) {
        return said(e.what(), text, size, ROPEWALK_BAD_CALL);
    } catch (...) {
        return said("refused", text, size, ROPEWALK_BAD_CALL);
    }
}
/// A maker of a handle: nothing where there is nowhere to put it.
template <class T, class F>
int made(T** handle, char* text, std::size_t size, F make) noexcept {
    if (handle == nullptr)
        return said("the pointer to the handle must not be null", text, size, ROPEWALK_BAD_CALL);
    *handle = nullptr;
    return answered(text, size, [&] { *handle = make(); });
}

/// A field that cannot be, as the exception that `answered` ends.
inline void require_none(const char* who, const misfit& r) {
    if (!r.ok()) detail::fail(std::string(who) + ": " + to_string(r));
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
