# Every dependency is looked for on the machine first. Downloads happen only with ROPEWALK_FETCH_DEPS,
# of pinned releases by the SHA-256 of their archives: a tag that is moved, or another archive in its place,
# stops the configuration.
include(${CMAKE_CURRENT_LIST_DIR}/xsimd_target.cmake)
include(FetchContent)

# ropewalk_missing(NAME PACKAGE REASON): stops with the two ways out.
function(ropewalk_missing name package reason)
    message(FATAL_ERROR
        "ropewalk: ${reason}.\n"
        "Debian, Ubuntu: apt-get install ${package}\n"
        "or configure with -DROPEWALK_FETCH_DEPS=ON to download a pinned release of ${name}.")
endfunction()

if(POLICY CMP0135)
    cmake_policy(SET CMP0135 NEW)  # files are as new as their extraction: another archive is built anew
endif()

# ropewalk_download(NAME URL SHA256): the sources only, in ${NAME}_SOURCE_DIR. Header-only dependencies
# need nothing of their own build files (the named subfolder does not exist, so none is read).
macro(ropewalk_download name url sha256)
    FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${sha256} SOURCE_SUBDIR headers-only)
    FetchContent_MakeAvailable(${name})
endmacro()

# Functions of their own, so that what the packages set stays inside.
function(ropewalk_require_xsimd)
    ropewalk_find_xsimd(found)
    if(NOT found AND ROPEWALK_FETCH_DEPS)
        ropewalk_download(ropewalk_fetched_xsimd
            https://github.com/xtensor-stack/xsimd/archive/refs/tags/13.2.0.tar.gz
            edd8cd3d548c185adc70321c53c36df41abe64c1fe2c67bc6d93c3ecda82447a)
        set(ROPEWALK_XSIMD_INCLUDE_DIR ${ropewalk_fetched_xsimd_SOURCE_DIR}/include
            CACHE PATH "Where xsimd/xsimd.hpp is" FORCE)
        if(ROPEWALK_INSTALL)
            message(STATUS "ropewalk: the downloaded xsimd is not installed; users of the installed package "
                           "need one of their own (ROPEWALK_XSIMD_INCLUDE_DIR)")
        endif()
        ropewalk_find_xsimd(found)
    endif()
    if(NOT found)
        ropewalk_missing(xsimd libxsimd-dev "${ROPEWALK_XSIMD_PROBLEM}")
    endif()
endfunction()

# The core does without: only what is built here (tests, examples, benchmarks) makes it REQUIRED.
function(ropewalk_use_eigen required)
    if(TARGET Eigen3::Eigen)
        return()
    endif()
    # 3.4 and 5.x alike; some packages of 5.x answer no range at all.
    find_package(Eigen3 3.4...5 QUIET NO_MODULE)
    if(NOT TARGET Eigen3::Eigen)
        find_package(Eigen3 QUIET NO_MODULE)
    endif()
    if(TARGET Eigen3::Eigen)
        set_target_properties(Eigen3::Eigen PROPERTIES IMPORTED_GLOBAL ON)
        return()
    endif()
    if(NOT ROPEWALK_FETCH_DEPS)
        if(required)
            ropewalk_missing(Eigen libeigen3-dev "Eigen 3.4 or newer was not found")
        endif()
        message(STATUS "ropewalk: Eigen 3.4 or newer was not found (Debian, Ubuntu: apt-get install "
                       "libeigen3-dev): there is ropewalk::core, but no ropewalk::ropewalk")
        return()
    endif()
    ropewalk_download(ropewalk_fetched_eigen
        https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
        8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    set_target_properties(Eigen3::Eigen PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES ${ropewalk_fetched_eigen_SOURCE_DIR})
endfunction()

# Tests, examples and models/huggingface_json.hpp only.
function(ropewalk_require_nlohmann_json)
    if(TARGET nlohmann_json::nlohmann_json)
        return()
    endif()
    find_package(nlohmann_json 3.9 QUIET)
    if(TARGET nlohmann_json::nlohmann_json)
        set_target_properties(nlohmann_json::nlohmann_json PROPERTIES IMPORTED_GLOBAL ON)
        return()
    endif()
    find_path(ROPEWALK_JSON_INCLUDE_DIR nlohmann/json.hpp DOC "Where nlohmann/json.hpp is")
    if(NOT ROPEWALK_JSON_INCLUDE_DIR AND ROPEWALK_FETCH_DEPS)
        ropewalk_download(ropewalk_fetched_json
            https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
            d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
        set(ROPEWALK_JSON_INCLUDE_DIR ${ropewalk_fetched_json_SOURCE_DIR}/include)
    endif()
    if(NOT ROPEWALK_JSON_INCLUDE_DIR)
        ropewalk_missing(nlohmann-json nlohmann-json3-dev "nlohmann/json.hpp was not found")
    endif()
    add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED GLOBAL)
    set_target_properties(nlohmann_json::nlohmann_json PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${ROPEWALK_JSON_INCLUDE_DIR}")
endfunction()
