// Stand-in for Vitis HLS's header of this name, for C simulation: what our kernels use of it. The
// stages of a dataflow region run one after the other, so a stream holds whatever is written.
#pragma once

#include <cassert>
#include <deque>
#include <stdexcept>
#include <utility>

namespace hls {

template <typename T, int kDepth = 0>
class stream;

template <typename T>
class stream<T, 0> {
 public:
  stream() = default;
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() { assert(items_.empty() && "a stage left items unread"); }

  void write(const T& item) { items_.push_back(item); }
  T read() {
    if (items_.empty()) throw std::logic_error("a stage reads what nobody wrote");
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

 private:
  std::deque<T> items_;
};

// A FIFO of so many items in hardware.
template <typename T, int kDepth>
class stream : public stream<T, 0> {};

}  // namespace hls
