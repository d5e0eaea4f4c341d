# ropewalk_add_dispatch(TARGET [UNITS name...])
# Gives TARGET the functions of ropewalk/ropewalk.h: one unit for each instruction set, compiled with flags of
# its own whatever the project's are, and the choice between them at run time. Names, widest first:
# avx512_bf16 avx512 avx2_fma_f16c sse2 on x86-64, neon on AArch64; all of them unless UNITS is given.
# Units are compiled once, position-independent, for all targets of a build: the object libraries
# ropewalk_unit_<name> and, for what no instruction set matters to, ropewalk_unit_handles.
# The functions are as visible as TARGET's CXX_VISIBILITY_PRESET says; where it says nothing they are exported, but
# TARGET itself always calls its own copy, whatever else the process has loaded. What is inside units never is.
# Units are compiled without link-time optimisation: it merges code of different instruction-set flags.
# Configs are read where nlohmann-json is found; see ropewalk_read_config().
set(ROPEWALK_DISPATCH_UNITS "" CACHE STRING "Units of ropewalk_add_dispatch where it is given none; empty, or none of this architecture, means all")
mark_as_advanced(ROPEWALK_DISPATCH_UNITS)
function(ropewalk_add_dispatch target)
    set(here ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/dispatch)
    cmake_parse_arguments(arg "" "" "UNITS" ${ARGN})
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
        set(known avx512_bf16 avx512 avx2_fma_f16c sse2)
    elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
        set(known neon)
    else()
        message(FATAL_ERROR "ropewalk_add_dispatch: no units for ${CMAKE_SYSTEM_PROCESSOR}")
    endif()
    if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        message(FATAL_ERROR "ropewalk_add_dispatch: GCC or Clang is needed, this is ${CMAKE_CXX_COMPILER_ID}")
    endif()
    # Each begins at the baseline and takes back what a project-wide flag may have added. What chooses runs
    # before anything is known of the CPU.
    set(baseline -march=x86-64 -mtune=generic)
    set(avx2 ${baseline} -mavx2 -mfma -mf16c)
    set(avx512 ${avx2} -mavx512f -mavx512cd -mavx512dq -mavx512bw -mavx512vl)
    set(flags_sse2 ${baseline} -mno-sse3 -mno-avx)
    set(flags_avx2_fma_f16c ${avx2} -mno-avx512f)
    set(flags_avx512 ${avx512} -mno-avx512bf16)
    set(flags_avx512_bf16 ${avx512} -mavx512bf16)
    set(flags_neon "")
    set(flags_api ${flags_sse2})
    if(known STREQUAL "neon")
        set(flags_api "")
    endif()
    set(flags_handles ${flags_api} -fexceptions)  # caught before they reach a caller
    # As wide as the unit's name says.
    foreach(name avx512 avx512_bf16)
        if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
            list(APPEND flags_${name} -mprefer-vector-width=512)
        endif()
    endforeach()

    if(NOT arg_UNITS)
        foreach(name IN LISTS ROPEWALK_DISPATCH_UNITS)  # a preset serves every architecture
            if(name IN_LIST known)
                list(APPEND arg_UNITS ${name})
            endif()
        endforeach()
    endif()
    if(NOT arg_UNITS)
        set(arg_UNITS ${known})
    endif()
    foreach(name IN LISTS arg_UNITS)
        if(NOT name IN_LIST known)
            message(FATAL_ERROR "ropewalk_add_dispatch: UNITS must be of ${known}, got ${name}")
        endif()
    endforeach()
    # Optimised whatever the build: what is inlined is no symbol that another unit could share.
    function(ropewalk_add_unit object flags)
        if(NOT TARGET ${object})
            list(TRANSFORM ARGN PREPEND ${here}/)
            add_library(${object} OBJECT ${ARGN})
            target_link_libraries(${object} PRIVATE ropewalk::core)
            target_compile_options(${object} PRIVATE -O2 -fno-exceptions -fno-lto ${${flags}} -fvisibility=hidden
                                   -fvisibility-inlines-hidden)
            set_target_properties(${object} PROPERTIES POSITION_INDEPENDENT_CODE ON)
        endif()
        target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
    endfunction()
    set(list "")
    foreach(name IN LISTS known)
        if(name IN_LIST arg_UNITS)
            string(APPEND list " UNIT(${name})")
            ropewalk_add_unit(ropewalk_unit_${name} flags_${name} unit.cpp unit_elsewhere.cpp unit_cache.cpp
                              unit_shift.cpp)
            target_compile_definitions(ropewalk_unit_${name} PRIVATE ROPEWALK_DISPATCH_UNIT=${name})
        endif()
    endforeach()
    ropewalk_add_unit(ropewalk_unit_handles flags_handles handles.cpp plans.cpp models.cpp)
    find_path(ROPEWALK_JSON_INCLUDE_DIR nlohmann/json.hpp DOC "Where nlohmann/json.hpp is")
    mark_as_advanced(ROPEWALK_JSON_INCLUDE_DIR)
    if(ROPEWALK_JSON_INCLUDE_DIR)
        target_include_directories(ropewalk_unit_handles SYSTEM PRIVATE ${ROPEWALK_JSON_INCLUDE_DIR})
    endif()

    set(preset $<TARGET_PROPERTY:${target},CXX_VISIBILITY_PRESET>)
    set(exported $<IF:$<OR:$<STREQUAL:${preset},>,$<STREQUAL:${preset},default>>,protected,${preset}>)
    ropewalk_add_unit(${target}_ropewalk_api flags_api api.cpp api_made.cpp)
    target_compile_definitions(${target}_ropewalk_api PRIVATE ROPEWALK_DISPATCH_VISIBILITY=${exported}
                               "ROPEWALK_DISPATCH_UNITS=${list}")
    target_include_directories(${target} PUBLIC
        $<BUILD_INTERFACE:$<TARGET_PROPERTY:ropewalk::core,INTERFACE_INCLUDE_DIRECTORIES>>)
endfunction()
