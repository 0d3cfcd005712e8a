#include "device/profile.h"

#include <fcntl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <random>
#include <sstream>

#include "base/align.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "device/probe.h"
#include "io/file.h"
#include "io/io_queue.h"
#include "io/plain_file.h"

namespace nspjax {
namespace {

constexpr int64_t kMostFileBytes = 4096;

constexpr const char* kName = "nspjax.profile";

// What a profile belongs to: copied to another file system, or with another io, it means nothing.
struct Origin {
  std::string io;
  uint64_t file_system;
};

Origin origin_of(const std::string& directory, std::string_view io) {
  struct statfs info{};
  if (::statfs(directory.c_str(), &info) != 0) {
    fail(ErrorKind::kStorePath, directory, ": ", errno_text(errno));
  }
  return {std::string(make_io_queue(io, 1)->name()), std::bit_cast<uint64_t>(info.f_fsid)};
}

std::string text_of(const DeviceProfile& profile, const Origin& origin) {
  std::array<char, 512> body{};
  std::snprintf(body.data(), body.size(),
                "nspjax device profile 1\nio %s\nfile_system %016llx\nblock_bytes %lld\ndepth %d\n"
                "read_gb_per_s %.3f\nwrite_gb_per_s %.3f\n",
                origin.io.c_str(), static_cast<unsigned long long>(origin.file_system),
                static_cast<long long>(profile.block_bytes), profile.depth,
                profile.read_gb_per_s.value_or(0), profile.write_gb_per_s.value_or(0));
  const std::string text = body.data();
  std::array<char, 32> crc{};
  std::snprintf(crc.data(), crc.size(), "crc32c %08x\n", crc32c(std::as_bytes(std::span(text))));
  return text + crc.data();
}

// Written with three digits, it is more than 0.
bool is_a_rate(double gb_per_s) { return gb_per_s >= 0.001 && gb_per_s <= 1e6; }

// Strict by writing it again: what is not byte for byte the text of a profile is none.
std::optional<DeviceProfile> profile_in(const std::string& text, const Origin& origin) {
  DeviceProfile profile;
  double read = 0, write = 0;
  std::istringstream in(text);
  for (std::string name; in >> name;) {
    if (name == "block_bytes") in >> profile.block_bytes;
    if (name == "depth") in >> profile.depth;
    if (name == "read_gb_per_s") in >> read;
    if (name == "write_gb_per_s") in >> write;
  }
  profile.read_gb_per_s = read;
  profile.write_gb_per_s = write;
  if (text != text_of(profile, origin)) return {};
  const bool sane = profile.block_bytes >= kPageBytes && profile.block_bytes <= 64 << 20 &&
                    profile.block_bytes % kPageBytes == 0 && profile.depth >= 1 &&
                    profile.depth <= 1024 && is_a_rate(read) && is_a_rate(write);
  if (!sane) return {};
  profile.source = "kept";
  return profile;
}

std::string content_of(const std::string& directory) {
  const auto file = open_plain(open_directory(directory), kName, O_RDONLY);
  if (!file) return "";
  std::string content(static_cast<size_t>(kMostFileBytes), '\0');
  const int64_t bytes = file->read_at(std::as_writable_bytes(std::span(content)), 0);
  content.resize(static_cast<size_t>(bytes));
  return content;
}

// By renaming: who opens it finds the old one or the new one. It is not synced: one that a crash
// tore has the wrong checksum, and is measured again.
void keep(const std::string& path, const std::string& text) {
  const File directory = open_directory(path);
  (void)open_plain(directory, kName, O_RDONLY);  // nothing else is replaced
  const std::string temporary = concat(kName, ".", ::getpid(), ".", std::random_device()());
  const std::optional<File> file = make_plain(directory, temporary);
  if (!file) fail(ErrorKind::kStorePath, "there is a ", temporary, " in ", path, " already");
  try {
    file->write_at(std::as_bytes(std::span(text)), 0);
    if (::renameat(directory.fd(), temporary.c_str(), directory.fd(), kName) != 0) {
      file->fail_io("renaming", std::ssize(text), 0, errno);
    }
  } catch (...) {
    ::unlinkat(directory.fd(), temporary.c_str(), 0);
    throw;
  }
}

}  // namespace

std::optional<DeviceProfile> kept_profile(const std::string& directory, std::string_view io) {
  try {
    return profile_in(content_of(directory), origin_of(directory, io));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInvalidArgument) throw;
    return {};  // none, or none that can be read
  }
}

DeviceProfile measure_profile(const std::string& directory, std::string_view io) {
  DeviceProfile profile;
  try {
    profile = probe(directory, io);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInvalidArgument) throw;
    profile.note = error.what();
    return profile;
  }
  try {
    keep(directory, text_of(profile, origin_of(directory, io)));
  } catch (const Error& error) {
    profile.note = concat("it could not be kept: ", error.what());
  }
  return profile;
}

DeviceProfile profile_of(const std::string& directory, std::string_view io) {
  if (auto kept = kept_profile(directory, io)) return *kept;
  return measure_profile(directory, io);
}

}  // namespace nspjax
