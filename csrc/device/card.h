// A card beside a drive: memory that host and drive both write into, and compute units that run the
// attention kernel of hls_kernels/ on it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace nspjax {

// "xrt:INDEX?xclbin=FILE&path=DIRECTORY", see card_spec.h.
struct CardSpec {
  int index = 0;
  std::string xclbin;
  std::string path;  // of the store's directory, on the card's own drive
  std::chrono::milliseconds timeout{};
};

struct CardInfo {
  std::string name;     // of the platform
  std::string address;  // on the PCI bus; empty: not known
  std::string kernel;
  int compute_units;
};

inline constexpr int64_t kMostOperandBytes = 1 << 20;  // of one run
inline constexpr int64_t kMostResultBytes = 1 << 20;

class Card {
 public:
  virtual ~Card() = default;
  virtual const CardInfo& info() const = 0;
  // Memory of the card that drives transfer into and out of, mapped until the card goes. Once.
  // Throws Accelerator.
  virtual std::byte* map_buffer(int64_t bytes) = 0;
  // More callers at once than this wait for each other.
  virtual int concurrent_runs() const = 0;
  // Starts the kernel on operands (hls_kernels/attention/interface.h) and waits for its results.
  // Any thread. Throws Accelerator, also where the run does not end in time.
  virtual void run(std::span<const std::byte> operands, std::span<std::byte> results) = 0;
  // Gives the card back, and with it the buffer. Nothing may be running.
  virtual void close() = 0;
};

// Whether this build has the plug-in.
bool has_xrt_plugin();

// Through XRT: loads the plug-in that was built with its headers, which loads XRT. The card has its
// kernel, map_buffer() is still to be called. Throws Accelerator.
std::unique_ptr<Card> open_xrt_card(const CardSpec& spec);

}  // namespace nspjax
