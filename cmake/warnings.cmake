# ropewalk_warnings: for our own tests, examples and benchmarks, never for users of the library. They
# include the headers as ordinary ones, so what the headers warn of counts too.
add_library(ropewalk_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(ropewalk_warnings INTERFACE
        -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow
        # GCC 12 finds this in its own AVX-512 intrinsics wherever Eigen calls them.
        $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-maybe-uninitialized>
        $<$<BOOL:${ROPEWALK_WARNINGS_AS_ERRORS}>:-Werror>)
endif()
