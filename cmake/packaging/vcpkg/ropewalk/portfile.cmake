# Untested. As an overlay it takes the sources that it stands in:
#     vcpkg install ropewalk --overlay-ports=cmake/packaging/vcpkg
# In a registry the next line is vcpkg_from_git(OUT_SOURCE_PATH SOURCE_PATH URL ... REF ...) with a commit hash.
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../.." ABSOLUTE)

set(VCPKG_BUILD_TYPE release)  # headers only
vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        -DROPEWALK_BUILD_TESTS=OFF
        -DROPEWALK_BUILD_BENCH=OFF
        -DROPEWALK_BUILD_EXAMPLES=OFF
        -DCMAKE_INSTALL_DATADIR=share
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/ropewalk)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
