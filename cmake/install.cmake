# The installed package: headers, a CMake package and pkg-config files. All of it is independent of
# the architecture and of the place it is installed to.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/ropewalk)
install(DIRECTORY include/ropewalk DESTINATION include FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
install(DIRECTORY cmake/dispatch DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/ropewalk)

# Two export sets: whoever asks for COMPONENTS core needs no Eigen.
install(TARGETS ropewalk_core EXPORT ropewalk_core_targets)
install(TARGETS ropewalk EXPORT ropewalk_targets)
install(EXPORT ropewalk_core_targets NAMESPACE ropewalk:: DESTINATION ${package_dir}
        FILE ropewalk_core_targets.cmake)
install(EXPORT ropewalk_targets NAMESPACE ropewalk:: DESTINATION ${package_dir}
        FILE ropewalk_targets.cmake)

configure_package_config_file(cmake/ropewalkConfig.cmake.in
    ${CMAKE_CURRENT_BINARY_DIR}/package/ropewalkConfig.cmake INSTALL_DESTINATION ${package_dir}
    NO_SET_AND_CHECK_MACRO)
# Below 1.0 a minor version may break its users.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/package/ropewalkConfigVersion.cmake
    COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
foreach(name ropewalk ropewalk-core)
    configure_file(cmake/${name}.pc.in ${CMAKE_CURRENT_BINARY_DIR}/package/${name}.pc @ONLY)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/package/${name}.pc
            DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
endforeach()
install(FILES
    ${CMAKE_CURRENT_BINARY_DIR}/package/ropewalkConfig.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/package/ropewalkConfigVersion.cmake
    cmake/xsimd_target.cmake
    cmake/dispatch.cmake
    DESTINATION ${package_dir})

# cpack -G DEB: libropewalk-dev, for every architecture. Nothing of the tests is built for it.
if(top_level)
    set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
    set(CPACK_GENERATOR DEB)
    set(CPACK_PACKAGE_NAME libropewalk-dev)
    set(CPACK_PACKAGE_VENDOR Ropewalk)
    set(CPACK_PACKAGE_CONTACT "Ropewalk")
    set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
    set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
    set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
    set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
    set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
    set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
    set(CPACK_DEBIAN_PACKAGE_DEPENDS "libxsimd-dev (>= 8.1), libeigen3-dev (>= 3.4)")
    include(CPack)
endif()
