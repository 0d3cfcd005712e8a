#include "base/trace.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>

#include "base/error.h"

namespace nspjax {
namespace {

using Words = std::array<int64_t, 7>;

constexpr int64_t pair_of(int32_t low, int32_t high) {
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 |
                              static_cast<uint32_t>(low));
}
constexpr int32_t low_of(int64_t pair) { return static_cast<int32_t>(pair & 0xffffffff); }
constexpr int32_t high_of(int64_t pair) { return static_cast<int32_t>(pair >> 32); }

Words words_of(const TraceEvent& e) {
  return {e.begin_ns,
          e.end_ns,
          e.offset,
          e.bytes,
          pair_of(e.device, e.cache),
          pair_of(e.row, e.thread),
          static_cast<int64_t>(e.kind)};
}

TraceEvent event_of(const Words& w) {
  return {w[0],         w[1],          w[2],
          w[3],         low_of(w[4]),  high_of(w[4]),
          low_of(w[5]), high_of(w[5]), static_cast<TraceKind>(w[6])};
}

size_t slots_for(int64_t capacity) {
  constexpr int64_t kMost = int64_t{1} << 26;  // 4 GiB of slots
  if (capacity < 0 || capacity > kMost) {
    fail(ErrorKind::kInvalidArgument, "a trace of ", capacity, " events: give 0 (none) to ", kMost);
  }
  return capacity == 0 ? 0 : std::bit_ceil(static_cast<size_t>(capacity));
}

}  // namespace

int64_t trace_clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int32_t this_thread_id() {
  thread_local const int32_t id = ::gettid();
  return id;
}

Trace::Trace(int64_t capacity) : slots_(slots_for(capacity)) {}

// The words are stored with release and loaded with acquire (free on x86): who reads a word of a
// newer event then also sees that the sequence has moved on. A fence would do as well, but
// ThreadSanitizer does not know fences.
void Trace::add(const TraceEvent& event) noexcept {
  if (slots_.empty()) return;
  const int64_t n = n_added_.fetch_add(1, std::memory_order_relaxed);
  Slot& slot = slots_[static_cast<size_t>(n) & (slots_.size() - 1)];
  int64_t before = slot.sequence.load(std::memory_order_relaxed);
  // A thread that was stopped in the middle for a whole round of the ring has the slot, or one that
  // is a round ahead: this event is lost.
  if (before % 2 != 0 || before > 2 * n) return;
  if (!slot.sequence.compare_exchange_strong(before, 2 * n + 1, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
    return;
  }
  const Words words = words_of(event);
  for (size_t i = 0; i < kWords; ++i) slot.words[i].store(words[i], std::memory_order_release);
  slot.sequence.store(2 * n + 2, std::memory_order_release);
}

bool Trace::read(const Slot& slot, TraceEvent& into) {
  const int64_t before = slot.sequence.load(std::memory_order_acquire);
  if (before == 0 || before % 2 != 0) return false;
  Words words{};
  for (size_t i = 0; i < kWords; ++i) words[i] = slot.words[i].load(std::memory_order_acquire);
  if (slot.sequence.load(std::memory_order_relaxed) != before) return false;
  into = event_of(words);
  return true;
}

std::vector<TraceEvent> Trace::events() const {
  std::vector<TraceEvent> found;
  TraceEvent event;
  for (const Slot& slot : slots_) {
    if (read(slot, event)) found.push_back(event);
  }
  std::ranges::stable_sort(found, {}, &TraceEvent::begin_ns);
  return found;
}

int64_t Trace::n_dropped() const {
  const int64_t n_added = n_added_.load(std::memory_order_relaxed);
  const auto n_kept = std::ranges::count_if(slots_, [](const Slot& slot) {
    const int64_t sequence = slot.sequence.load(std::memory_order_relaxed);
    return sequence != 0 && sequence % 2 == 0;
  });
  return std::max<int64_t>(0, n_added - n_kept);
}

}  // namespace nspjax
