#include "device/probe.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "base/align.h"
#include "io/file.h"
#include "io/io_queue.h"

namespace nspjax {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kLeastFreeBytes = 1024 * kMiB;
constexpr int64_t kMostScratchBytes = 128 * kMiB, kLeastScratchBytes = 8 * kMiB;
constexpr int64_t kArenaBytes = 32 * kMiB;
constexpr milliseconds kWriteTime{120}, kTotalTime{420}, kPassTime{10}, kLeastReadTime{100};
// More in flight than the drive transfers in this time makes it no faster.
constexpr double kMostInFlightSeconds = 0.02;
constexpr double kAsGood = 0.97;
// Large blocks that are this near to the best are taken: over minutes they were the faster ones,
// whatever half a second said.
constexpr double kNearlyAsGood = 0.7;
constexpr int kRounds = 2;

struct Setting {
  int64_t block_bytes;
  int depth;
  double bytes_per_s = 0;  // the best of its passes

  int64_t in_flight_bytes() const { return block_bytes * depth; }
};

// Fewest bytes in flight first, and of the same the smaller blocks.
std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const int64_t mib : {1, 2, 4}) {
    for (const int depth : {4, 8, 16, 32}) all.push_back({mib * kMiB, depth});
  }
  std::ranges::stable_sort(all, {}, &Setting::in_flight_bytes);
  return all;
}

struct Pass {
  int64_t bytes;
  double seconds;
  double bytes_per_s() const { return static_cast<double>(bytes) / std::max(seconds, 1e-9); }
};

class Probe {
 public:
  Probe(const std::string& directory, std::string_view io)
      : begun_(Clock::now()),
        queue_(make_io_queue(io, 32)),
        file_(open_scratch(directory)),
        arena_(kArenaBytes) {}

  DeviceProfile measure(const std::string& directory) {
    fill_arena();
    const Pass written =
        transfer(IoOp::kWrite, {2 * kMiB, 8}, scratch_bytes(directory), Clock::now() + kWriteTime);
    file_bytes_ = written.bytes;
    if (file_bytes_ < kLeastScratchBytes) {
      fail(ErrorKind::kStorageIO, directory,
           " is too slow to be measured: ", bytes_text(file_bytes_), " were written in ",
           kWriteTime.count(), " ms");
    }
    const Setting chosen = best_setting();
    if (!(chosen.bytes_per_s > 0)) {
      fail(ErrorKind::kStorageIO, directory,
           " could not be measured: this machine was too busy for a read in ",
           kLeastReadTime.count(), " ms");
    }
    return {.block_bytes = chosen.block_bytes,
            .depth = chosen.depth,
            .read_gb_per_s = chosen.bytes_per_s / 1e9,
            .write_gb_per_s = written.bytes_per_s() / 1e9,
            .source = "measured"};
  }

 private:
  // Without a name from the start.
  static File open_scratch(const std::string& directory) {
    const std::string path =
        concat(directory, "/.nspjax.probe.", ::getpid(), ".", std::random_device()());
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
    const int error = errno;
    // a file system without O_DIRECT may have made the file nevertheless
    if (::unlink(path.c_str()) != 0 && fd >= 0) {
      const int why = errno;
      const File unwanted(fd, path);
      unwanted.fail_io("unlink", 0, 0, why);
    }
    if (fd < 0) {
      fail(ErrorKind::kStorePath, "cannot open ", path, ": ",
           error == EINVAL ? "the file system has no O_DIRECT" : errno_text(error));
    }
    return File(fd, path);
  }

  int64_t scratch_bytes(const std::string& directory) const {
    struct statvfs info{};
    if (::fstatvfs(file_.fd(), &info) != 0) file_.fail_io("statvfs", 0, 0, errno);
    if (info.f_blocks == 0) return kMostScratchBytes;  // ramfs has no size
    const auto free = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
    if (free < kLeastFreeBytes) {
      fail(ErrorKind::kStoreFull, directory, " has ", bytes_text(free), " free, and ",
           bytes_text(kLeastFreeBytes), " are asked for before it is measured");
    }
    return std::min(kMostScratchBytes, round_down(free / 16, 4 * kMiB));
  }

  // Pseudo-random, since drives may compress; and touched, so that no pass pays for its pages.
  void fill_arena() {
    uint64_t word = 0x9e3779b97f4a7c15u;
    for (int64_t at = 0; at < kArenaBytes; at += 8) {
      word ^= word << 13;
      word ^= word >> 7;
      word ^= word << 17;
      std::memcpy(arena_.data() + at, &word, sizeof(word));
    }
  }

  // Transfers `bytes`, the setting's depth of blocks at a time, from the start of the file on, and
  // from there again at its end. Begins no more after `until`. Buffers may overlap: nobody looks at
  // what is read.
  Pass transfer(IoOp op, const Setting& setting, int64_t bytes, Clock::time_point until) {
    const int64_t block = setting.block_bytes, n_blocks = bytes / block;
    const int64_t file_blocks = (op == IoOp::kWrite ? bytes : file_bytes_) / block;
    int64_t n_begun = 0, n_done = 0;
    int error = 0;
    std::vector<IoRequest> requests;
    std::vector<IoCompletion> completions;
    const auto begun = Clock::now();
    for (;;) {
      requests.clear();
      const bool more = error == 0 && Clock::now() < until;
      for (; more && n_begun < n_blocks && n_begun - n_done < setting.depth; ++n_begun) {
        requests.push_back({op, file_.fd(), arena_.data() + n_begun * block % kArenaBytes, block,
                            n_begun % file_blocks * block, static_cast<uint64_t>(n_begun)});
      }
      if (n_begun == n_done) break;
      queue_->submit(requests);
      completions.clear();
      queue_->wait(completions);
      for (const IoCompletion& completion : completions) {
        ++n_done;
        if (completion.result == block) continue;
        error = completion.result < 0 ? static_cast<int>(-completion.result) : EIO;
      }
    }
    if (error != 0) file_.fail_io(op == IoOp::kRead ? "read" : "write", block, 0, error);
    return {n_done * block, std::chrono::duration<double>(Clock::now() - begun).count()};
  }

  Setting best_setting() {
    std::vector<Setting> all = settings();
    // On a busy machine writing may have taken all the time.
    const auto end = std::max(begun_ + kTotalTime, Clock::now() + kLeastReadTime);
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
      for (Setting& setting : all) {
        const auto in_flight = static_cast<double>(setting.in_flight_bytes());
        if (best > 0 && in_flight > best * kMostInFlightSeconds) continue;
        const double pass_seconds = std::chrono::duration<double>(kPassTime).count();
        const auto bytes = static_cast<int64_t>(std::max(2 * in_flight, best * pass_seconds));
        const double needed = best > 0 ? static_cast<double>(bytes) / best : 0;
        if (std::chrono::duration<double>(end - Clock::now()).count() < needed) continue;
        setting.bytes_per_s =
            std::max(setting.bytes_per_s, transfer(IoOp::kRead, setting, bytes, end).bytes_per_s());
        best = std::max(best, setting.bytes_per_s);
      }
    }
    int64_t block_bytes = 0;
    for (const Setting& setting : all) {
      if (setting.bytes_per_s < kNearlyAsGood * best) continue;
      block_bytes = std::max(block_bytes, setting.block_bytes);
    }
    std::erase_if(all, [&](const Setting& setting) { return setting.block_bytes != block_bytes; });
    best = std::ranges::max(all, {}, &Setting::bytes_per_s).bytes_per_s;
    return *std::ranges::find_if(
        all, [&](const Setting& setting) { return setting.bytes_per_s >= kAsGood * best; });
  }

  Clock::time_point begun_;
  std::unique_ptr<IoQueue> queue_;
  File file_;
  MappedRegion arena_;
  int64_t file_bytes_ = 0;
};

}  // namespace

DeviceProfile probe(const std::string& directory, std::string_view io) {
  return Probe(directory, io).measure(directory);
}

}  // namespace nspjax
