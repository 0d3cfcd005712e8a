// The ring of events: what it keeps, under many threads, and that no event is torn.
#include <unistd.h>

#include <set>
#include <thread>

#include "base/trace.h"
#include "check.h"

namespace nspjax::testing {
namespace {

// Every field says which event it is, so that a mixture of two is seen.
TraceEvent numbered(int64_t n) {
  const auto small = static_cast<int32_t>(n);
  return {n, n + 1, n + 2, n + 3, small, small + 1, small + 2, small + 3, TraceKind::kCompute};
}

bool is_whole(const TraceEvent& e) {
  const TraceEvent expected = numbered(e.begin_ns);
  return e.end_ns == expected.end_ns && e.offset == expected.offset && e.bytes == expected.bytes &&
         e.device == expected.device && e.cache == expected.cache && e.row == expected.row &&
         e.thread == expected.thread && e.kind == expected.kind;
}

void test_the_newest_are_kept_in_order() {
  Trace trace(16);
  for (int64_t n = 100; n > 60; --n) trace.add(numbered(n));
  const auto events = trace.events();
  check(events.size() == 16 && trace.n_dropped() == 24, "16 of 40");
  for (size_t i = 0; i < events.size(); ++i) {
    check(events[i].begin_ns == 61 + static_cast<int64_t>(i), "in order of begin_ns");
    check(is_whole(events[i]), "whole");
  }
}

void test_fields_survive() {
  Trace trace(1);
  trace.add({-5, int64_t{1} << 62, int64_t{1} << 40, 7, -1, 2147483647, -2147483647 - 1, -1,
             TraceKind::kPack});
  const TraceEvent e = trace.events().at(0);
  check(e.begin_ns == -5 && e.end_ns == int64_t{1} << 62 && e.offset == int64_t{1} << 40, "64 bit");
  check(e.bytes == 7 && e.device == -1 && e.cache == 2147483647, "32 bit");
  check(e.row == -2147483647 - 1 && e.thread == -1 && e.kind == TraceKind::kPack, "signs");
}

void test_no_capacity() {
  Trace trace(0);
  trace.add(numbered(1));
  {
    const TraceScope scope(trace, {});
  }
  check(!trace.on() && trace.events().empty() && trace.n_dropped() == 0, "records nothing");
  check_throws(ErrorKind::kInvalidArgument, [] { Trace bad(-1); });
}

void test_scope() {
  Trace trace(4);
  const int64_t before = trace_clock_ns();
  {
    TraceScope scope(trace, {.device = 2, .kind = TraceKind::kRead});
    scope.event().bytes = 4096;
  }
  const TraceEvent e = trace.events().at(0);
  check(before <= e.begin_ns && e.begin_ns <= e.end_ns && e.end_ns <= trace_clock_ns(), "times");
  check(e.device == 2 && e.cache == -1 && e.bytes == 4096, "fields");
  check(e.kind == TraceKind::kRead && e.thread == ::gettid(), "kind and thread");
}

// Threads overwrite a small ring while another reads it.
void test_many_threads() {
  constexpr int kThreads = 6, kEvents = 20000;
  Trace trace(64);
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&trace, t] {
      for (int i = 0; i < kEvents; ++i) trace.add(numbered(t * kEvents + i));
    });
  }
  for (int i = 0; i < 200; ++i) {
    for (const TraceEvent& event : trace.events()) check(is_whole(event), "whole while written");
  }
  threads.clear();
  const auto events = trace.events();
  std::set<int64_t> seen;
  for (const TraceEvent& event : events) {
    check(is_whole(event), "whole afterwards");
    check(seen.insert(event.begin_ns).second, "once");
  }
  check(trace.n_dropped() == kThreads * kEvents - static_cast<int64_t>(events.size()), "counted");
}

// A ring that is large enough has every event of every thread.
void test_nothing_is_lost() {
  constexpr int kThreads = 4, kEvents = 5000;
  Trace trace(kThreads * kEvents);
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&trace, t] {
      for (int i = 0; i < kEvents; ++i) trace.add(numbered(t * kEvents + i));
    });
  }
  threads.clear();
  const auto events = trace.events();
  check(events.size() == kThreads * kEvents && trace.n_dropped() == 0, "all");
  for (size_t i = 0; i < events.size(); ++i) {
    check(events[i].begin_ns == static_cast<int64_t>(i) && is_whole(events[i]), "each");
  }
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_the_newest_are_kept_in_order();
  test_fields_survive();
  test_no_capacity();
  test_scope();
  test_many_threads();
  test_nothing_is_lost();
}
