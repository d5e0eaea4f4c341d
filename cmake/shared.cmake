# ropewalk_shared: the functions of ropewalk/ropewalk.h with all units of this processor, as one shared library that
# offers nothing else. Its name in programs has the minor version in it: another one is another interface.
add_library(ropewalk_shared SHARED)
add_library(ropewalk::shared ALIAS ropewalk_shared)
ropewalk_add_dispatch(ropewalk_shared)
set_target_properties(ropewalk_shared PROPERTIES
    OUTPUT_NAME ropewalk EXPORT_NAME shared LINKER_LANGUAGE CXX
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(UNIX AND NOT APPLE)  # templates of the standard library are visible whatever the flags say
    set(exports ${CMAKE_CURRENT_LIST_DIR}/dispatch/exports.map)
    target_link_options(ropewalk_shared PRIVATE LINKER:--version-script=${exports})
    set_target_properties(ropewalk_shared PROPERTIES LINK_DEPENDS ${exports})
endif()
# What a C program needs, and no more: the library, its header, and a pkg-config file. Tests build the library where
# nobody asked for it, and then install this component by name.
if(ROPEWALK_INSTALL)
    include(GNUInstallDirs)
    set(unasked "")
    if(NOT ROPEWALK_BUILD_SHARED)
        set(unasked EXCLUDE_FROM_ALL)
    endif()
    set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
    file(RELATIVE_PATH ROPEWALK_FROM_PC /${pc_dir} /)
    configure_file(${CMAKE_CURRENT_LIST_DIR}/ropewalk-c.pc.in ${PROJECT_BINARY_DIR}/package/ropewalk-c.pc @ONLY)
    install(TARGETS ropewalk_shared DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT shared ${unasked})
    install(FILES ${PROJECT_BINARY_DIR}/package/ropewalk-c.pc DESTINATION ${pc_dir} COMPONENT shared ${unasked})
    set(headers ${PROJECT_SOURCE_DIR}/include/ropewalk)
    install(FILES ${headers}/ropewalk.h DESTINATION include/ropewalk COMPONENT shared ${unasked})
    install(DIRECTORY ${headers}/dispatch DESTINATION include/ropewalk COMPONENT shared ${unasked}
            FILES_MATCHING PATTERN "*.h")
endif()
