// The Python module nspjax._engine.
#include <malloc.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>

#include "attention/kernel.h"
#include "base/process.h"
#include "bindings/arrays.h"
#include "bindings/attend_tile.h"
#include "bindings/attention_kernel.h"
#include "bindings/call_descriptions.h"
#include "bindings/cards.h"
#include "bindings/checksum.h"
#include "bindings/ffi_handlers.h"
#include "bindings/gil.h"
#include "bindings/handle_arrays.h"
#include "bindings/head_tile.h"
#include "bindings/measure.h"
#include "bindings/paths.h"
#include "bindings/profiles.h"
#include "bindings/store_calls.h"
#include "bindings/store_reports.h"
#include "bindings/tile_transfer.h"
#include "bindings/trace_arrays.h"
#include "bindings/weight_arrays.h"
#include "device/card_spec.h"
#include "dot/dot.h"
#include "store/registry.h"

namespace nspjax {
namespace {

// nspjax::Error -> nspjax.errors.<Kind>Error
void raise_in_python(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    const std::string name = concat(kind_name(error.kind()), "Error");
    const nb::object cls = nb::module_::import_("nspjax.errors").attr(name.c_str());
    PyErr_SetString(cls.ptr(), error.what());
  }
}

CacheShape cache_shape(int64_t batch, int64_t capacity_tokens, int64_t n_kv_heads, int64_t head_dim,
                       const std::string& dtype, const std::string& kv_dtype, int64_t window_tokens,
                       bool k_by_channel, bool sketch) {
  const DType appended = parse_dtype(dtype);
  const DType stored = kv_dtype.empty() ? appended : parse_kv_dtype(kv_dtype);
  return {batch,  capacity_tokens, n_kv_heads,   head_dim, appended,
          stored, window_tokens,   k_by_channel, sketch};
}

nb::dict registrations() {
  nb::dict result;
  for (const auto& [name, handler] : ffi_handlers()) result[name.c_str()] = nb::capsule(handler);
  return result;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const KernelSet& kernel : available_kernels()) names.emplace_back(kernel.name);
  return names;
}

// Of what was freed, glibc keeps all but the end of each arena.
void trim_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

nb::list dtypes() {
  nb::list rows;
  for (const DTypeRow& row : kDTypes) {
    nb::dict result;
    result["name"] = std::string(row.name).c_str();
    result["numpy"] = std::string(row.numpy).c_str();
    result["bits"] = row.bits;
    result["is_code"] = row.is_code;
    result["appended"] = row.appended;
    rows.append(result);
  }
  return rows;
}

nb::dict build_info() {
  nb::dict result;
#ifdef NSPJAX_HAVE_URING
  result["uring"] = true;
#else
  result["uring"] = false;
#endif
  result["xrt"] = has_xrt_plugin();
  result["ffi_api_minor_version"] = ffi_api_minor_version();
  result["compiler"] = __VERSION__;
  return result;
}

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "The engine: stores of KV caches, attention beside them, and XLA's custom calls to it.";
  nb::register_exception_translator(raise_in_python);

  using namespace nb::literals;
  const auto release_gil = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Store>(m, "Store",
                    "KV caches on devices. 16-bit elements travel as uint16 arrays of their bits.")
      .def(nb::new_([](const nb::list& devices, int64_t host_memory_bytes, int threads,
                       std::string io, std::string kernel, bool checksums, int64_t pinned_bytes,
                       int64_t trace_events, double read_bytes_per_s, double write_bytes_per_s,
                       double link_bytes_per_s, bool kv_over_link, std::string fault,
                       double x_share) {
             return open_store({.devices = expand_cards(path_bytes(devices), &std::getenv),
                                .host_memory_bytes = host_memory_bytes,
                                .threads = threads,
                                .io = std::move(io),
                                .kernel = std::move(kernel),
                                .checksums = checksums,
                                .pinned_bytes = pinned_bytes,
                                .trace_events = trace_events,
                                .rate_limit = {{read_bytes_per_s, write_bytes_per_s},
                                               link_bytes_per_s,
                                               kv_over_link},
                                .fault = std::move(fault),
                                .x_share = x_share});
           }),
           "devices"_a, "host_memory_bytes"_a, "threads"_a = 0, "io"_a = "auto",
           "kernel"_a = "auto", "checksums"_a = true, "pinned_bytes"_a = -1,
           "trace_events"_a = 1 << 16, "read_bytes_per_s"_a = 0.0, "write_bytes_per_s"_a = 0.0,
           "link_bytes_per_s"_a = 0.0, "kv_over_link"_a = false, "fault"_a = "", "x_share"_a = 0.0)
      .def_prop_ro("id", &Store::id)
      .def_prop_ro("closed", &Store::closed, release_gil)
      .def("warnings",
           [](const Store& store) {
             std::vector<std::string> texts = store.warnings();
             for (std::string& text : texts) text = printable(text);
             return texts;
           })
      .def("check_usable", &Store::check_usable, release_gil,
           "Raises StoreClosedError in a fork's child, and after close.")
      .def("devices", &devices)
      .def("stats", &stats)
      .def(
          "trace", [](const Store& store) { return trace_arrays(store.trace_events()); },
          "The newest events: an array for each field.")
      .def(
          "create_caches",
          [](Store& store, int64_t n_layers, int64_t batch, int64_t capacity_tokens,
             int64_t n_kv_heads, int64_t head_dim, const std::string& dtype, int64_t tile_tokens,
             const std::string& kv_dtype, int64_t window_tokens, bool k_by_channel, bool sketch) {
            return store.create_caches(
                n_layers,
                cache_shape(batch, capacity_tokens, n_kv_heads, head_dim, dtype, kv_dtype,
                            window_tokens, k_by_channel, sketch),
                tile_tokens);
          },
          "n_layers"_a, "batch"_a, "capacity_tokens"_a, "n_kv_heads"_a, "head_dim"_a, "dtype"_a,
          "tile_tokens"_a = 0, "kv_dtype"_a = "", "window_tokens"_a = 0, "k_by_channel"_a = false,
          "sketch"_a = false, release_gil)
      .def(
          "cache_needs",
          [](const Store& store, int64_t n_layers, int64_t batch, int64_t capacity_tokens,
             int64_t n_kv_heads, int64_t head_dim, const std::string& dtype, int64_t tile_tokens,
             const std::string& kv_dtype, int64_t window_tokens, bool k_by_channel, bool sketch) {
            return cache_needs(store, n_layers,
                               cache_shape(batch, capacity_tokens, n_kv_heads, head_dim, dtype,
                                           kv_dtype, window_tokens, k_by_channel, sketch),
                               tile_tokens);
          },
          "n_layers"_a, "batch"_a, "capacity_tokens"_a, "n_kv_heads"_a, "head_dim"_a, "dtype"_a,
          "tile_tokens"_a = 0, "kv_dtype"_a = "", "window_tokens"_a = 0, "k_by_channel"_a = false,
          "sketch"_a = false)
      .def("cache_handles", &cache_handles, "cache"_a, "version"_a,
           "The handles of its keys and of its values, int32 [4] each.")
      .def("read_cache_handles", &read_cache_handles, "keys"_a, "values"_a, "-> cache, version.")
      .def("read_cache_handle", &read_cache_handle, "handle"_a, "-> cache, version.")
      .def("weight_handle", &weight_handle, "weight"_a, "int32 [4]")
      .def("read_weight_handle", &read_weight_handle, "handle"_a, "-> the weight's number.")
      .def("drop_cache", &Store::drop_cache, "cache"_a, release_gil)
      .def("version", &Store::version, "cache"_a, release_gil)
      .def("lengths", &Store::lengths, "cache"_a, release_gil)
      .def("begins", &Store::begins, "cache"_a, release_gil,
           "The first token that each row still has.")
      .def(
          "can_truncate",
          [](const Store& store, int32_t cache, const Int32Array& lengths) {
            return without_gil([&] { return store.can_truncate(cache, values(lengths)); });
          },
          "cache"_a, "lengths"_a, "Whether rows of so many tokens have all that is seen.")
      .def("tile_tokens", &Store::tile_tokens, "cache"_a, release_gil)
      .def("append", &append, "cache"_a, "version"_a, "k"_a, "v"_a, "rows"_a, "start"_a, "n_new"_a,
           "hold"_a = false, "k, v [B, T, H, D] go to the rows; returns the cache's new version.")
      .def("attend", &attend, "cache"_a, "version"_a, "q"_a, "rows"_a, "position"_a, "length"_a,
           "scale"_a, "window"_a = 0, "softcap"_a = 0.0f, "read_ahead"_a = true, "mass"_a = 1.0f,
           "budget"_a = 1.0f, "block_tokens"_a = 0,
           "q [B, T, Hq, D] -> out float32 [B, T, Hq, D], lse float32 [B, T, Hq].")
      .def("attend_start", &attend_start, "cache"_a, "version"_a, "q"_a, "rows"_a, "position"_a,
           "length"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.0f, "read_ahead"_a = true,
           "mass"_a = 1.0f, "budget"_a = 1.0f, "block_tokens"_a = 0,
           "The same, begun; returns a ticket.")
      .def("attend_wait", &attend_wait, "ticket"_a, "-> out, lse, once for each ticket.")
      .def("prefetch", &prefetch, "cache"_a, "rows"_a, "length"_a, "most_bytes"_a = 0,
           "Says what attentions with read_ahead=False will be over, in their order.")
      .def(
          "writeback",
          [](Store& store, int32_t cache, int64_t interval_tokens, bool exclusive) {
            store.writeback(cache, store.version(cache), interval_tokens, exclusive);
          },
          "cache"_a, "interval_tokens"_a, "exclusive"_a = false, release_gil,
          "Queues the writes of what was held back.")
      .def("read", &read, "cache"_a, "row"_a, "begin"_a, "end"_a,
           "Tokens of a row: k, v [end - begin, H, D].")
      .def("read_keys_by_channel", &read_keys_by_channel, "cache"_a, "row"_a, "begin"_a, "end"_a,
           "The keys of tokens, from the plane k_by_channel: k [end - begin, H, D].")
      .def("fetch", &fetch, "cache"_a, "version"_a, "rows"_a, "begin"_a, "length"_a, "n_tokens"_a,
           "read_ahead"_a = false, "window"_a = 0,
           "Tokens from begin on of several rows, 0 past their lengths and before the window that "
           "ends there: k, v [B, n_tokens, H, D].")
      .def("x_cache", &x_cache, "cache"_a, "n_heads"_a, "head_dim"_a,
           "The cache that keeps X for this one: its number and version.")
      .def("tile_layout", &tile_layout, "cache"_a,
           "What full tiles need to be another cache's: a dictionary.")
      .def("export_tiles", &export_tiles, "cache"_a, "version"_a, "row"_a, "begin"_a, "end"_a,
           "Full tiles of a row as they are stored, uint8 [tiles * heads * head_bytes].")
      .def("import_tiles", &import_tiles, "cache"_a, "version"_a, "row"_a, "begin"_a, "tiles"_a,
           "Such tiles become the row's from tile `begin` on; 0 empties it first.")
      .def(
          "share_prefix",
          [](Store& store, int32_t cache, int32_t version, int64_t from, const Int32Array& rows,
             int64_t n_tokens) {
            return without_gil(
                [&] { return store.share_prefix(cache, version, from, values(rows), n_tokens); });
          },
          "cache"_a, "version"_a, "from_row"_a, "rows"_a, "n_tokens"_a,
          "The first tokens of a row become those of others; returns the cache's new version.")
      .def(
          "truncate",
          [](Store& store, int32_t cache, int32_t version, const Int32Array& rows,
             const Int32Array& lengths) {
            return without_gil(
                [&] { return store.truncate(cache, version, values(rows), values(lengths)); });
          },
          "cache"_a, "version"_a, "rows"_a, "lengths"_a,
          "Cuts rows back, all in one; returns the cache's new version.")
      .def("take_rows", &take_rows, "cache"_a, "version"_a, "order"_a, "length"_a,
           "Row i goes on as row order[i], of length[order[i]] tokens; returns the new version.")
      .def("fill_synthetic", &Store::fill_synthetic, "cache"_a, "n_tokens"_a, release_gil,
           "Gives every row n_tokens pseudo-random tokens; returns the cache's new version.")
      .def("put_weight", &put_weight, "data"_a, "The bytes of an array; returns its number.")
      .def("load_weight", &load_weight, "weight"_a, "A weight's bytes, uint8.")
      .def(
          "load_weight_ahead",
          [](Store& store, int32_t weight) { store.weights().load_ahead(weight); }, "weight"_a,
          release_gil, "Begins to read it, as far as there are free buffers.")
      .def(
          "drop_weight", [](Store& store, int32_t weight) { store.weights().drop(weight); },
          "weight"_a, release_gil)
      .def(
          "drop_weights", [](Store& store) { store.weights().drop_all(); }, release_gil)
      .def("verify_reads", &Store::verify_reads, "verify"_a,
           "Whether checksums are compared; for measuring what that costs.")
      .def("record_events", &Store::record_events, "record"_a, "The same for the trace.")
      .def("flush", &Store::flush, release_gil)
      .def("close", &Store::close, release_gil);

  m.def("registrations", &registrations, "XLA FFI target name -> handler, a capsule.");
  m.def("call_descriptions", &call_descriptions, "What each of them takes and gives, by name.");
  m.def("can_dot", &can_dot, "Whether this CPU has the instructions of nspjax.dot.");
  m.attr("DOT_MULTIPLE") = kDotMultiple;
  m.def("dtypes", &dtypes, "The table of element types: nspjax/dtypes.py.");
  m.def("available_kernels", &kernel_names, "Those that this CPU runs, the best first.");
  m.def("attend_tile", &attend_tile, "kernel"_a, "dtype"_a, "q"_a, "k"_a, "v"_a, "first"_a,
        "last"_a, "first_token"_a, "begin"_a, "end"_a, "scale"_a, "softcap"_a = 0.0f,
        "kv_type"_a = "", "tile_tokens"_a = 0,
        "One kernel on one tile, for tests: q [n, D], k, v [tokens, D], query i sees the "
        "positions first[i] to last[i] -> out [n, D], lse [n].");
  m.def("crc32c", &crc32c_of_buffer, "bytes_like"_a, "CRC-32C of bytes, a memoryview, an array.");
  m.def("close_in_children", &close_in_children, "descriptor"_a,
        "A fork's child closes its copy at once.");
  m.def("forget_in_children", &forget_in_children, "descriptor"_a, "Before it is closed.");
  bind_trace(m);
  bind_profiles(m);
  bind_cards(m);
  m.def("head_tile_bytes", &head_tile_bytes, "kv_type"_a, "head_dim"_a, "tile_tokens"_a);
  m.def("pack_head", &pack_head_tokens, "kv_type"_a, "tile_tokens"_a, "k"_a, "v"_a, "begin"_a,
        "tile"_a, "k, v [tokens, D] as a tile's tokens from begin on -> a new tile (uint8).");
  m.def("unpack_head", &unpack_head_tokens, "kv_type"_a, "head_dim"_a, "tile_tokens"_a, "tile"_a,
        "begin"_a, "end"_a, "-> k, v [end - begin, D].");
  m.def("copy_head_tokens", &copy_tile_tokens, "kv_type"_a, "head_dim"_a, "tile_tokens"_a,
        "source"_a, "n"_a, "to"_a, "The first n tokens of a tile over a copy of another.");
  m.def("convert_head", &convert_tile, "from_type"_a, "to_type"_a, "head_dim"_a, "tile_tokens"_a,
        "tile"_a, "A full tile in another type.");
  m.def("simulate_attention_kernel", &simulate_attention_kernel, "kv"_a, "operands"_a,
        "The FPGA's attention kernel in C simulation: the card's memory (uint8) and the operands "
        "-> the results (uint32), as hls_kernels/attention/interface.h lays them out.");
  m.def("measure_read_bandwidth", &measure_read_bandwidth, "bytes"_a, "threads"_a, "repeats"_a,
        release_gil, "GB/s of a loop that only reads.");
  m.def("measure_kernel", &measure_kernel, "kernel"_a, "kv_type"_a, "head_dim"_a, "n_kv_heads"_a,
        "group"_a, "tile_tokens"_a, "bytes"_a, "threads"_a, "repeats"_a, release_gil,
        "GB/s of KV in memory that a kernel attends over.");
  m.def("measure_pack", &measure_pack, "kv_type"_a, "to_type"_a, "head_dim"_a, "n_kv_heads"_a,
        "tile_tokens"_a, "bytes"_a, "repeats"_a, release_gil,
        "GB/s of rows that one thread packs into tiles.");
  m.def("trim_heap", &trim_heap, release_gil, "Gives freed memory back to the system.");
  m.def("build_info", &build_info);
}

}  // namespace nspjax
