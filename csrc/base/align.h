// Page arithmetic and page-aligned memory. O_DIRECT needs address, offset and size to be aligned.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "base/error.h"

namespace nspjax {

inline constexpr int64_t kPageBytes = 4096;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t unit) { return ceil_div(a, unit) * unit; }
constexpr int64_t round_down(int64_t a, int64_t unit) { return a / unit * unit; }

// A page-aligned heap buffer; its bytes start as zero, so that padding written out is defined.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t bytes) : bytes_(round_up(bytes, kPageBytes)) {
    if (bytes_ == 0) return;
    const auto size = static_cast<size_t>(bytes_);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, size)));
    if (!data_) throw std::bad_alloc();
    std::fill_n(data_.get(), size, std::byte{0});
  }
  std::byte* data() const { return data_.get(); }
  int64_t size_bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t bytes_ = 0;
};

// An anonymous mapping: costs memory only where it was written, in huge pages where the system has
// them, so that reading it spends less on page walks (a fifth of attention's time, measured).
class MappedRegion {
 public:
  MappedRegion() = default;
  explicit MappedRegion(int64_t bytes) : bytes_(bytes) {
    void* p = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      fail(ErrorKind::kStoreFull, "cannot map ", bytes_text(bytes),
           " of memory: ", errno_text(errno));
    }
    data_ = static_cast<std::byte*>(p);
    (void)::madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish: small pages do, too
    // Not for a fork's child: a page that both have is copied when it is written next, and what a
    // device was to bring into it would arrive in the copy that the child has.
    (void)::madvise(p, static_cast<size_t>(bytes), MADV_DONTFORK);
  }
  MappedRegion(MappedRegion&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MappedRegion& operator=(MappedRegion&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedRegion() {
    if (data_) ::munmap(data_, static_cast<size_t>(bytes_));
  }
  std::byte* data() const { return data_; }
  int64_t size_bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace nspjax
