// A card through XRT's native C++ API.
#include <xrt/xrt_bo.h>
#include <xrt/xrt_kernel.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/card.h"
#include "device/xrt/loaded_card.h"

namespace nspjax {
namespace {

using Clock = std::chrono::steady_clock;

// While one run computes, the operands and results of another are on their way.
constexpr int kRunsAComputeUnit = 2;
enum Argument : int { kKV, kOperands, kResults };

class XrtCard final : public Card {
 public:
  explicit XrtCard(const CardSpec& spec)
      : spec_(spec), card_(load_card(spec)), info_(card_->info) {}

  const CardInfo& info() const override { return info_; }
  int concurrent_runs() const override { return kRunsAComputeUnit * info_.compute_units; }

  std::byte* map_buffer(int64_t bytes) override {
    std::byte* mapped = nullptr;
    trying(
        concat("map ", bytes_text(bytes), " of its memory for transfers with drives (if P2P is ",
               "off: xbutil configure --p2p enable, and perhaps a larger PCI window in the BIOS)"),
        [&] {
          buffer_ = xrt::bo(card_->device, static_cast<size_t>(bytes), xrt::bo::flags::p2p,
                            card_->kernel.group_id(kKV));
          mapped = buffer_.map<std::byte*>();
        });
    for (int i = 0; i < concurrent_runs(); ++i) {
      trying("get memory for operands and results", [&] { runners_.push_back(make_runner()); });
    }
    for (Runner& runner : runners_) idle_.push_back(&runner);
    return mapped;
  }

  void run(std::span<const std::byte> operands, std::span<std::byte> results) override {
    Runner& runner = acquire();
    // After a failure the runner is not given back: the card may write its results still.
    trying("run its kernel", [&] {
      std::memcpy(runner.operands_data, operands.data(), operands.size());
      runner.operands.sync(XCL_BO_SYNC_BO_TO_DEVICE, operands.size(), 0);
      runner.run.start();
      wait_for(runner.run);
      runner.results.sync(XCL_BO_SYNC_BO_FROM_DEVICE, results.size(), 0);
      std::memcpy(results.data(), runner.results_data, results.size());
    });
    std::lock_guard lock(mutex_);
    idle_.push_back(&runner);
    freed_.notify_one();
  }

  void close() override {
    idle_.clear();
    runners_.clear();
    buffer_ = xrt::bo();
    card_.reset();
  }

 private:
  struct Runner {
    xrt::bo operands, results;
    std::byte* operands_data;
    std::byte* results_data;
    xrt::run run;
  };

  Runner make_runner() {
    Runner runner{
        .operands = xrt::bo(card_->device, kMostOperandBytes, card_->kernel.group_id(kOperands)),
        .results = xrt::bo(card_->device, kMostResultBytes, card_->kernel.group_id(kResults)),
        .operands_data = nullptr,
        .results_data = nullptr,
        .run = xrt::run(card_->kernel)};
    runner.operands_data = runner.operands.map<std::byte*>();
    runner.results_data = runner.results.map<std::byte*>();
    runner.run.set_arg(kKV, buffer_);
    runner.run.set_arg(kOperands, runner.operands);
    runner.run.set_arg(kResults, runner.results);
    return runner;
  }

  Runner& acquire() {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [this] { return !idle_.empty() || !lost_.empty(); });
    if (!lost_.empty()) fail(ErrorKind::kAccelerator, lost_);
    Runner& runner = *idle_.back();
    idle_.pop_back();
    return runner;
  }

  // XRT's own wait with a timeout does not end in its emulation.
  void wait_for(const xrt::run& run) const {
    const Clock::time_point begin = Clock::now(), deadline = begin + spec_.timeout;
    for (;;) {
      const ert_cmd_state state = run.state();
      if (state == ERT_CMD_STATE_COMPLETED) return;
      if (state > ERT_CMD_STATE_COMPLETED && state != ERT_CMD_STATE_SUBMITTED) {
        throw std::runtime_error(concat("the run ended in state ", state, " of ert.h"));
      }
      const Clock::time_point now = Clock::now();
      if (now > deadline) {
        throw std::runtime_error(concat("the run did not end within ", spec_.timeout.count(),
                                        " ms (timeout_s of the store's spec)"));
      }
      std::this_thread::sleep_for((now - begin) / 16 + std::chrono::microseconds(5));
    }
  }

  // What XRT throws becomes ours, and the card is not used any more.
  template <class Fn>
  void trying(const std::string& what, const Fn& fn) {
    try {
      fn();
    } catch (const std::exception& error) {
      const std::string text = concat(
          "card ", spec_.index, " did not ", what, ": ", error.what(),
          "; see dmesg and `xbutil examine`, reset the card if it hangs (xbutil reset), and ",
          "close the store and open it again");
      {
        std::lock_guard lock(mutex_);
        lost_ = text;
      }
      freed_.notify_all();
      fail(ErrorKind::kAccelerator, text);
    }
  }

  const CardSpec spec_;
  std::shared_ptr<LoadedCard> card_;
  const CardInfo info_;
  xrt::bo buffer_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::string lost_;  // why the card cannot be used any more
  std::vector<Runner*> idle_;
  std::deque<Runner> runners_;
};

}  // namespace
}  // namespace nspjax

extern "C" [[gnu::visibility("default")]] void nspjax_open_xrt_card(
    const nspjax::CardSpec& spec, std::unique_ptr<nspjax::Card>& card) {
  card = std::make_unique<nspjax::XrtCard>(spec);
}
