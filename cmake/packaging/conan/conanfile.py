# Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
"""Recipe for Conan 2, of the sources that it stands in: conan create cmake/packaging/conan. Untested."""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.0"
root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")


class RopewalkConan(ConanFile):
    name = "ropewalk"
    description = "Rotary position embeddings for CPUs, header-only C++20"
    license = "MIT"
    topics = ("rope", "rotary-embedding", "transformer", "simd", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"with_eigen": [True, False]}
    default_options = {"with_eigen": True}
    no_copy_source = True

    def set_version(self):
        text = load(self, os.path.join(root, "include", "ropewalk", "core", "version.hpp"))
        self.version = ".".join(re.findall(r"#define ROPEWALK_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "cmake/*"):
            copy(self, pattern, src=root, dst=self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("xsimd/[>=8.1]", transitive_headers=True)
        if self.options.with_eigen:
            self.requires("eigen/[>=3.4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        xsimd = self.dependencies["xsimd"].cpp_info.includedirs[0]
        toolchain.cache_variables["ROPEWALK_XSIMD_INCLUDE_DIR"] = xsimd.replace("\\", "/")
        for part in ("TESTS", "BENCH", "EXAMPLES"):
            toolchain.cache_variables[f"ROPEWALK_BUILD_{part}"] = False
        toolchain.generate()

    def package(self):
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        cmake = CMake(self)
        cmake.configure()
        cmake.install()
        for folder in ("doc", "pkgconfig"):
            rmdir(self, os.path.join(self.package_folder, "share", folder))

    def package_info(self):
        # Conan writes the targets; the package's own CMake files remain for ropewalk_add_dispatch.
        self.cpp_info.set_property("cmake_file_name", "ropewalk")
        core = self.cpp_info.components["core"]
        core.set_property("cmake_target_name", "ropewalk::core")
        core.set_property("pkg_config_name", "ropewalk-core")
        core.requires = ["xsimd::xsimd"]
        if self.options.with_eigen:
            whole = self.cpp_info.components["ropewalk"]
            whole.set_property("cmake_target_name", "ropewalk::ropewalk")
            whole.set_property("pkg_config_name", "ropewalk")
            whole.requires = ["core", "eigen::eigen"]
        for component in self.cpp_info.components.values():
            component.bindirs = component.libdirs = []
