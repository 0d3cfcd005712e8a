// Rows of a cache that go on from one another.
#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {

void take_rows(Arguments& given) {
  const Given<kTakeRows> call(given);
  const Reference& cache = call.about();
  call.give_next(cache.store->take_rows(cache.number, cache.version, [&](const CacheShape& shape) {
    call.check(shape, {{'S', shape.batch}});
    return TakeRowsArgs{.order = call.operand("order").integers(),
                        .length = call.operand("length").integers()};
  }));
}

}  // namespace nspjax::calls
