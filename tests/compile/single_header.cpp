// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk.hpp>
#include <ropewalk.hpp>

#if __has_include(<ropewalk/ropewalk.hpp>)
#error the real headers are on the include path: this would prove nothing
#endif

ropewalk::heads_view<float> view;
