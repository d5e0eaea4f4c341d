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
if(ROPEWALK_INSTALL AND ROPEWALK_BUILD_SHARED)  # tests build it too
    include(GNUInstallDirs)
    install(TARGETS ropewalk_shared DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
