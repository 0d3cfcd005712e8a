// Stand-in for Vitis HLS's header of this name, for C simulation: reads through a memory port that
// were asked for beforehand, in the order in which they were.
#pragma once

#include <cstddef>
#include <deque>
#include <stdexcept>

namespace hls {

template <typename T>
class burst_maxi {
 public:
  burst_maxi(const T* memory) : memory_(memory) {}

  void read_request(std::size_t offset, std::size_t length) {
    if (length > 0) bursts_.push_back({memory_ + offset, memory_ + offset + length});
  }
  T read() {
    if (bursts_.empty()) throw std::logic_error("a stage reads what it did not ask for");
    const T item = *bursts_.front().next++;
    if (bursts_.front().next == bursts_.front().end) bursts_.pop_front();
    return item;
  }

 private:
  struct Burst {
    const T* next;
    const T* end;
  };
  const T* memory_;
  std::deque<Burst> bursts_;
};

}  // namespace hls
