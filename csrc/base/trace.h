// What the engine did and when: a ring of events, the newest kept.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nspjax {

// kAttend is an attention at work; kAttendStart and kAttendWait are calls, as are all after them.
enum class TraceKind : uint8_t {
  kAttend,
  kAppend,
  kRead,
  kReadAhead,
  kWrite,
  kWait,
  kCompute,
  kPack,
  kAttendStart,
  kAttendWait,
  kPrefetch,
  kWriteback,
  kFetch,
  kLoad,
  kLoadAhead
};

struct TraceEvent {
  int64_t begin_ns = 0, end_ns = 0;           // steady clock (CLOCK_MONOTONIC)
  int64_t offset = 0, bytes = 0;              // on the device; offset: an attention's ticket
  int32_t device = -1, cache = -1, row = -1;  // -1: none
  int32_t thread = -1;                        // gettid of who recorded it
  TraceKind kind = TraceKind::kAttend;
};

int64_t trace_clock_ns();
int32_t this_thread_id();  // gettid, asked once a thread

class Trace {
 public:
  // capacity: events, rounded up to a power of two; 0 records nothing.
  explicit Trace(int64_t capacity);

  bool on() const { return !slots_.empty() && recording_.load(std::memory_order_relaxed); }
  // Goes on recording, or stops; for measuring what it costs.
  void record(bool recording) { recording_ = recording; }
  // From any thread, without a lock.
  void add(const TraceEvent& event) noexcept;
  // In order of begin_ns. Events that are being written or replaced meanwhile are left out.
  std::vector<TraceEvent> events() const;
  // Events that were added and that the ring does not have, or not yet.
  int64_t n_dropped() const;

 private:
  static constexpr size_t kWords = 7;

  // A cache line: an event as words, and whose it is. The sequence is 0 in a slot never written,
  // 2n + 1 while event n is being written, 2n + 2 once it is there.
  struct alignas(64) Slot {
    std::atomic<int64_t> sequence = 0;
    std::array<std::atomic<int64_t>, kWords> words{};
  };
  static bool read(const Slot& slot, TraceEvent& into);

  std::vector<Slot> slots_;
  std::atomic<bool> recording_ = true;
  alignas(64) std::atomic<int64_t> n_added_ = 0;
};

// Records from its construction to its destruction; costs a branch where the trace is off.
class TraceScope {
 public:
  // `what`: all but the times and the thread.
  TraceScope(Trace& trace, const TraceEvent& what) : trace_(trace), event_(what) {
    if (trace_.on()) event_.begin_ns = trace_clock_ns();
  }
  ~TraceScope() {
    if (!trace_.on()) return;
    event_.end_ns = trace_clock_ns();
    event_.thread = this_thread_id();
    trace_.add(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

  // For what is known only on the way, such as the bytes.
  TraceEvent& event() { return event_; }

 private:
  Trace& trace_;
  TraceEvent event_;
};

}  // namespace nspjax
