#include "bindings/handle_arrays.h"

#include "store/handle.h"

namespace nspjax {
namespace {

nb::object array_of(const Handle& handle, HandleKind kind) {
  const HandleIntegers integers = handle_integers(handle, kind);
  return new_array(std::vector<int32_t>(integers.begin(), integers.end()), {integers.size()});
}

Handle own(const Store& store, const Handle& handle, const char* what) {
  if (handle.store == store.id()) return handle;
  fail(ErrorKind::kInvalidArgument, "the ", what, " belongs to another Store: give each function ",
       "what is of its own store");
}

nb::tuple cache_and_version(const Store& store, const Handle& handle) {
  own(store, handle, "KV cache");
  return nb::make_tuple(handle.cache, handle.version);
}

}  // namespace

nb::tuple cache_handles(const Store& store, int32_t cache, int32_t version) {
  const Handle handle{store.id(), cache, version};
  return nb::make_tuple(array_of(handle, HandleKind::kKeys), array_of(handle, HandleKind::kValues));
}

nb::object weight_handle(const Store& store, int32_t weight) {
  return array_of({store.id(), weight, 0}, HandleKind::kWeight);
}

nb::tuple read_cache_handles(const Store& store, const Int32Array& keys, const Int32Array& values) {
  return cache_and_version(store, parse_handles(nspjax::values(keys), nspjax::values(values)));
}

nb::tuple read_cache_handle(const Store& store, const Int32Array& handle) {
  return cache_and_version(store, parse_cache_handle(values(handle)));
}

int32_t read_weight_handle(const Store& store, const Int32Array& handle) {
  return own(store, parse_handle(values(handle), HandleKind::kWeight), "weight").cache;
}

}  // namespace nspjax
