// A plug-in for cards in software, where the engine looks for that of XRT: the kernel's C
// simulation on memory of the process. For sanitizers, which XRT's emulation is no place for.
//
// The xclbin names what goes wrong: "lost:N" and "fails:N" from run N on, "reset:N" in run N,
// "no-p2p". Results that are lost are those that the card's last store left in its memory.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#include "attention/attention.h"
#include "base/align.h"
#include "device/card.h"

namespace nspjax {
namespace {

using kernel::Beat;

class SoftwareCard final : public Card {
 public:
  explicit SoftwareCard(const CardSpec& spec)
      : spec_(spec),
        info_{.name = "software", .address = "", .kernel = kernel::kName, .compute_units = 2} {}

  const CardInfo& info() const override { return info_; }
  int concurrent_runs() const override { return 4; }

  std::byte* map_buffer(int64_t bytes) override {
    if (spec_.xclbin == "no-p2p") fail(ErrorKind::kAccelerator, "card without P2P");
    buffer_ = MappedRegion(bytes);
    return buffer_.data();
  }

  void run(std::span<const std::byte> operands, std::span<std::byte> results) override {
    const int number = ++n_runs_;
    if (fails_from("fails:", number)) fail(ErrorKind::kAccelerator, "a run that fails");
    const bool reset = spec_.xclbin == "reset:" + std::to_string(number);
    if (reset || fails_from("lost:", number)) return read_back(number, results);
    std::vector<Beat> asked(operands.size() / sizeof(Beat)), came(results.size() / sizeof(Beat));
    std::memcpy(asked.data(), operands.data(), operands.size());
    nspjax_attention(reinterpret_cast<Beat*>(buffer_.data()), asked.data(), came.data());
    std::memcpy(results.data(), came.data(), results.size());
    std::lock_guard lock(mutex_);
    left_[number].assign(results.begin(), results.end());
  }

  void close() override { buffer_ = MappedRegion(); }

 private:
  static void read_back(int number, std::span<std::byte> results) {
    std::lock_guard lock(mutex_);
    const std::vector<std::byte>& left = left_[number];
    std::memcpy(results.data(), left.data(), std::min(results.size(), left.size()));
  }
  bool fails_from(std::string_view what, int number) const {
    const std::string_view text = spec_.xclbin;
    if (!text.starts_with(what)) return false;
    int first = 0;
    std::from_chars(text.data() + what.size(), text.data() + text.size(), first);
    return number >= first;
  }

  const CardSpec spec_;
  const CardInfo info_;
  MappedRegion buffer_;
  std::atomic<int> n_runs_ = 0;
  inline static std::mutex mutex_;
  inline static std::map<int, std::vector<std::byte>> left_;  // by the run of its store
};

}  // namespace
}  // namespace nspjax

extern "C" [[gnu::visibility("default")]] void nspjax_open_xrt_card(
    const nspjax::CardSpec& spec, std::unique_ptr<nspjax::Card>& card) {
  card = std::make_unique<nspjax::SoftwareCard>(spec);
}
