# ropewalk_warnings: for our own tests, examples and benchmarks, never for users of the library. They
# include the headers as ordinary ones, so what the headers warn of counts too.
add_library(ropewalk_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(ropewalk_warnings INTERFACE
        -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow
        $<$<BOOL:${ROPEWALK_WARNINGS_AS_ERRORS}>:-Werror>)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # GCC takes the copy of an empty class or std::optional for a read of it, and GCC 12 warns inside its own AVX-512
        # intrinsics wherever they are inlined, Eigen's too (its bug 105593). Clang keeps watch over these.
        target_compile_options(ropewalk_warnings INTERFACE -Wno-maybe-uninitialized)
    endif()
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
        target_compile_options(ropewalk_warnings INTERFACE -Wno-uninitialized)
        # It also warns inside its own std::string, at every other concatenation (its bugs 105329, 105651).
        target_compile_options(ropewalk_warnings INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
    endif()
endif()
