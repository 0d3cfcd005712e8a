// Weights out of a store.
#include <functional>
#include <numeric>

#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {

void load(Arguments& given) {
  const Given<kLoad> call(given);
  call.check();
  const Array& value = call.result("value");
  const int64_t bytes = std::accumulate(value.sizes.begin(), value.sizes.end(), value.element_bytes,
                                        std::multiplies<>());
  call.about().store->weights().load(call.about().number,
                                     {value.as<std::byte>(), static_cast<size_t>(bytes)});
}

void load_ahead(Arguments& given) {
  const Given<kLoadAhead> call(given);
  call.about().store->weights().load_ahead(call.about().number);
}

}  // namespace nspjax::calls
