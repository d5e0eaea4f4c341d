# The target docs: the reference, from the doc comments, into docs/html of the build folder. It fails on a
# public symbol without a comment as on any other warning.
find_program(ROPEWALK_DOXYGEN doxygen)
find_program(ROPEWALK_AWK NAMES awk mawk gawk)
mark_as_advanced(ROPEWALK_DOXYGEN ROPEWALK_AWK)
if(NOT ROPEWALK_DOXYGEN OR NOT ROPEWALK_AWK)
    return()
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile @ONLY)
add_custom_target(docs
    COMMAND ${ROPEWALK_DOXYGEN} ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile
    COMMENT "Writing docs/html"
    VERBATIM)
