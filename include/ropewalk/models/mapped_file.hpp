// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The bytes of a file, mapped into memory where the system can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#if __has_include(<sys/mman.h>) && __has_include(<sys/stat.h>) && __has_include(<fcntl.h>)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define ROPEWALK_DETAIL_MMAP
#endif

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_NAMESPACE {

/// The bytes of a file: mapped into memory where the system supports it, so that only pages in use are read;
/// elsewhere read as a whole. Movable; moving it does not move the bytes.
/// Requires: a mapped file must not be shortened while it is in use (the system would end the program).
/// Throws:   invalid_config naming the path when it is not a regular file or cannot be read.
class mapped_file {
  public:
    explicit mapped_file(const std::string& path) { open(path); }
    /// From bytes that are in memory already.
    explicit mapped_file(std::vector<std::byte> bytes) noexcept : owned_(std::move(bytes)) {}
    mapped_file(mapped_file&& other) noexcept
        : owned_(std::move(other.owned_)), mapped_(std::exchange(other.mapped_, {})) {}
    /// Takes over the bytes of the other.
    mapped_file& operator=(mapped_file&& other) noexcept {
        owned_.swap(other.owned_);
        std::swap(mapped_, other.mapped_);
        return *this;
    }
    ~mapped_file() {
#ifdef ROPEWALK_DETAIL_MMAP
        if (!mapped_.empty()) ::munmap(mapped_.data(), mapped_.size());
#endif
    }

    /// All bytes of the file.
    std::span<const std::byte> bytes() const noexcept {
        return mapped_.empty() ? std::span<const std::byte>(owned_) : std::span<const std::byte>(mapped_);
    }

  private:
    static constexpr const char* who = "mapped_file";
    static void require_readable(bool holds, const std::string& path) {
        detail::require(holds, who, "path must be a regular file that can be read", path);
    }

#ifdef ROPEWALK_DETAIL_MMAP
    void open(const std::string& path) {
        // Non-blocking: opening a pipe without a writer would wait before it could be refused.
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        struct ::stat about = {};
        void* at = MAP_FAILED;
        const bool regular = file >= 0 && ::fstat(file, &about) == 0 && S_ISREG(about.st_mode);
        const auto size = regular ? static_cast<std::size_t>(about.st_size) : 0;
        if (size > 0) at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (file >= 0) ::close(file);
        require_readable(regular && (size == 0 || at != MAP_FAILED), path);
        if (size > 0) mapped_ = {static_cast<std::byte*>(at), size};
    }
#else
    void open(const std::string& path) {
        std::ifstream in(path, std::ios_base::binary | std::ios_base::ate);
        const auto end = in ? static_cast<std::streamoff>(in.tellg()) : std::streamoff(-1);
        require_readable(end >= 0 && end < std::numeric_limits<std::streamoff>::max(), path);
        owned_.resize(static_cast<std::size_t>(end));
        in.seekg(0);
        in.read(reinterpret_cast<char*>(owned_.data()), static_cast<std::streamsize>(end));
        require_readable(in.gcount() == end, path);
    }
#endif

    std::vector<std::byte> owned_;
    std::span<std::byte> mapped_;
};

}  // namespace ROPEWALK_NAMESPACE
