# ropewalk_warnings: for our own tests, examples and benchmarks, never for users of the library. They
# include the headers as ordinary ones, so what the headers warn of counts too.
add_library(ropewalk_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(ropewalk_warnings INTERFACE
        -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow
        $<$<BOOL:${ROPEWALK_WARNINGS_AS_ERRORS}>:-Werror>)
endif()
