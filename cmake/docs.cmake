# The target docs: the reference, from the doc comments, into docs/html of the build folder. It fails on a
# public symbol without a comment as on any other warning.
find_program(ROPEWALK_DOXYGEN doxygen)
find_program(ROPEWALK_AWK NAMES awk mawk gawk)
mark_as_advanced(ROPEWALK_DOXYGEN ROPEWALK_AWK)
if(NOT ROPEWALK_DOXYGEN OR NOT ROPEWALK_AWK)
    return()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/layers.cmake)
configure_file(${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile @ONLY)
configure_file(${CMAKE_CURRENT_LIST_DIR}/reference.dox ${CMAKE_CURRENT_BINARY_DIR}/reference.dox @ONLY)
file(GLOB_RECURSE docs_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/*.hpp ${PROJECT_SOURCE_DIR}/include/*.h)
# First the names that comments and pages may link to, then the reference.
add_custom_target(docs
    COMMAND ${ROPEWALK_AWK} -v list=${CMAKE_CURRENT_BINARY_DIR}/docs_names.txt
            -f ${CMAKE_CURRENT_LIST_DIR}/docs_vocabulary.awk ${docs_headers}
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${CMAKE_CURRENT_BINARY_DIR}/docs/html
    COMMAND ${ROPEWALK_DOXYGEN} ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile
    COMMENT "Writing docs/html"
    VERBATIM)
