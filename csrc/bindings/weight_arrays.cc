#include "bindings/weight_arrays.h"

namespace nspjax {

int32_t put_weight(Store& store, const AnyArray& data) {
  const std::span bytes(static_cast<const std::byte*>(data.data()), data.nbytes());
  const nb::gil_scoped_release release;
  return store.put_weight(bytes);
}

nb::object load_weight(Store& store, int32_t weight) {
  std::vector<uint8_t> bytes = [&] {
    const nb::gil_scoped_release release;
    std::vector<uint8_t> into(static_cast<size_t>(store.weights().size_bytes(weight)));
    store.weights().load(weight, std::as_writable_bytes(std::span(into)));
    return into;
  }();
  const size_t n_bytes = bytes.size();
  return new_array(std::move(bytes), {n_bytes});
}

}  // namespace nspjax
