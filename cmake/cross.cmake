# Debian's cross compilers, the tests under an emulator: -DCMAKE_TOOLCHAIN_FILE=cmake/cross.cmake
# -DROPEWALK_CROSS=riscv64-linux-gnu, or another triple whose g++-... and emulator are installed.
set(ROPEWALK_CROSS aarch64-linux-gnu CACHE STRING "Triple of the machine that is compiled for")
set(ROPEWALK_CROSS_CPU max CACHE STRING "What qemu-aarch64 emulates: max, or with registers of 256 bits max,sve-max-vq=2")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ROPEWALK_CROSS ROPEWALK_CROSS_CPU)
string(REGEX REPLACE "-.*" "" CMAKE_SYSTEM_PROCESSOR ${ROPEWALK_CROSS})
set(CMAKE_C_COMPILER ${ROPEWALK_CROSS}-gcc)
set(CMAKE_CXX_COMPILER ${ROPEWALK_CROSS}-g++)
if(ROPEWALK_CROSS MATCHES "mingw32")
    set(CMAKE_SYSTEM_NAME Windows)
    set(CMAKE_C_COMPILER ${ROPEWALK_CROSS}-gcc-posix)  # std::mutex and threads
    set(CMAKE_CXX_COMPILER ${ROPEWALK_CROSS}-g++-posix)
    find_program(ROPEWALK_WINE NAMES wine64 wine PATHS /usr/lib/wine REQUIRED)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${ROPEWALK_WINE})
else()
    set(CMAKE_SYSTEM_NAME Linux)
    if(CMAKE_SYSTEM_PROCESSOR STREQUAL "powerpc64le")
        set(CMAKE_CROSSCOMPILING_EMULATOR qemu-ppc64le)
    elseif(CMAKE_SYSTEM_PROCESSOR STREQUAL "i686")  # a kernel for x86-64 need not run it
        set(CMAKE_CROSSCOMPILING_EMULATOR qemu-i386)
    else()
        set(CMAKE_CROSSCOMPILING_EMULATOR qemu-${CMAKE_SYSTEM_PROCESSOR})
    endif()
    if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
        list(APPEND CMAKE_CROSSCOMPILING_EMULATOR -cpu ${ROPEWALK_CROSS_CPU})
    endif()
endif()
# Static, so that the emulator needs no target libraries. The header-only packages (xsimd, Catch2,
# nlohmann-json) lie among the host's headers; searched last, these do not hide the target's own.
set(CMAKE_CXX_FLAGS_INIT "-idirafter /usr/include")
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "i686")
    string(APPEND CMAKE_CXX_FLAGS_INIT " -msse2 -mfpmath=sse")  # without it bits differ from call to call
elseif(CMAKE_SYSTEM_PROCESSOR STREQUAL "arm")
    string(APPEND CMAKE_CXX_FLAGS_INIT " -Wno-psabi")
endif()
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static")
