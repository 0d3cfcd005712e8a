#include "bindings/trace_arrays.h"

#include <array>

#include "bindings/arrays.h"

namespace nspjax {
namespace {

// [TraceKind]
constexpr std::array kKindNames = {"attend",   "append",    "read",  "read_ahead",   "write",
                                   "wait",     "compute",   "pack",  "attend_start", "attend_wait",
                                   "prefetch", "writeback", "fetch", "load",         "load_ahead"};

template <typename T, typename Field>
nb::object column(const std::vector<TraceEvent>& events, Field TraceEvent::* field) {
  std::vector<T> values;
  values.reserve(events.size());
  for (const TraceEvent& event : events) values.push_back(static_cast<T>(event.*field));
  return new_array(std::move(values), {events.size()});
}

}  // namespace

nb::dict trace_arrays(const std::vector<TraceEvent>& events) {
  nb::dict result;
  result["begin_ns"] = column<int64_t>(events, &TraceEvent::begin_ns);
  result["end_ns"] = column<int64_t>(events, &TraceEvent::end_ns);
  result["offset"] = column<int64_t>(events, &TraceEvent::offset);
  result["bytes"] = column<int64_t>(events, &TraceEvent::bytes);
  result["device"] = column<int32_t>(events, &TraceEvent::device);
  result["cache"] = column<int32_t>(events, &TraceEvent::cache);
  result["row"] = column<int32_t>(events, &TraceEvent::row);
  result["thread"] = column<int32_t>(events, &TraceEvent::thread);
  result["kind"] = column<uint8_t>(events, &TraceEvent::kind);
  return result;
}

void bind_trace(nb::module_& m) {
  using namespace nb::literals;
  nb::list kinds;
  for (const char* name : kKindNames) kinds.append(name);
  m.attr("trace_kinds") = nb::tuple(kinds);
  nb::class_<Trace>(m, "Trace", "A ring of events, for tests.")
      .def(nb::init<int64_t>(), "capacity"_a)
      .def(
          "add",
          [](Trace& trace, int64_t begin_ns, int64_t end_ns, int kind, int64_t offset,
             int64_t bytes, int32_t device, int32_t cache, int32_t row, int32_t thread) {
            if (kind < 0 || kind >= std::ssize(kKindNames)) {
              fail(ErrorKind::kInvalidArgument, "kind ", kind, " of an event: there are 0 to ",
                   std::ssize(kKindNames) - 1);
            }
            trace.add({begin_ns, end_ns, offset, bytes, device, cache, row, thread,
                       static_cast<TraceKind>(kind)});
          },
          "begin_ns"_a, "end_ns"_a, "kind"_a, "offset"_a = 0, "bytes"_a = 0, "device"_a = -1,
          "cache"_a = -1, "row"_a = -1, "thread"_a = -1)
      .def("events", [](const Trace& trace) { return trace_arrays(trace.events()); })
      .def_prop_ro("n_dropped", &Trace::n_dropped);
}

}  // namespace nspjax
