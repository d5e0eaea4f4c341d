# Makes ropewalk::xsimd, a target that carries xsimd's include directory and nothing else. Installed
# beside ropewalk's package, so that consumers get the same treatment.
#
# Why not the target of xsimd's own package: Debian 12's links a library (xtl) that it does not depend
# on, so linking it fails on a stock machine; and its version file refuses newer majors.

# ropewalk_find_xsimd(RESULT): RESULT is TRUE when the target exists; otherwise the reason is in
# ROPEWALK_XSIMD_PROBLEM.
function(ropewalk_find_xsimd result)
    set(${result} TRUE PARENT_SCOPE)
    if(TARGET ropewalk::xsimd)
        return()
    endif()
    if(NOT ROPEWALK_XSIMD_INCLUDE_DIR AND TARGET xsimd)
        # Brought by the enclosing project.
        get_target_property(directories xsimd INTERFACE_INCLUDE_DIRECTORIES)
        foreach(directory IN LISTS directories)
            string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" directory "${directory}")
            if(EXISTS "${directory}/xsimd/xsimd.hpp")
                set(ROPEWALK_XSIMD_INCLUDE_DIR "${directory}" CACHE PATH "Where xsimd/xsimd.hpp is")
            endif()
        endforeach()
    endif()
    find_path(ROPEWALK_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Where xsimd/xsimd.hpp is")
    set(${result} FALSE PARENT_SCOPE)
    if(NOT ROPEWALK_XSIMD_INCLUDE_DIR)
        set(ROPEWALK_XSIMD_PROBLEM "xsimd/xsimd.hpp was not found" PARENT_SCOPE)
        return()
    endif()
    set(version_file "${ROPEWALK_XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp")
    set(major 0)
    if(EXISTS "${version_file}")
        file(STRINGS "${version_file}" line REGEX "define XSIMD_VERSION_MAJOR [0-9]+")
        string(REGEX MATCH "[0-9]+" major "${line}")
    endif()
    if(NOT major GREATER_EQUAL 8)
        set(ROPEWALK_XSIMD_PROBLEM
            "xsimd ${major}.x in ${ROPEWALK_XSIMD_INCLUDE_DIR} is too old, 8.1 or newer is needed"
            PARENT_SCOPE)
        return()
    endif()
    add_library(ropewalk::xsimd INTERFACE IMPORTED GLOBAL)
    set_target_properties(ropewalk::xsimd PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${ROPEWALK_XSIMD_INCLUDE_DIR}")
    set(${result} TRUE PARENT_SCOPE)
endfunction()
