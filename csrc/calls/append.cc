// Tokens into a cache, and from host memory to its devices.
#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {

void append(Arguments& given) {
  const Given<kAppend> call(given);
  const Reference& cache = call.about();
  call.give_next(cache.store->append(cache.number, cache.version, [&](const CacheShape& shape) {
    const Sizes sizes = call.check(shape, {{'H', shape.n_kv_heads}, {'D', shape.head_dim}});
    return AppendArgs{.k = call.operand("k").as<const std::byte>(),
                      .v = call.operand("v").as<const std::byte>(),
                      .n_tokens = sizes['T'],
                      .rows = call.operand("rows").integers(),
                      .start = call.operand("start").integers(),
                      .n_new = call.operand("n_new").integers(),
                      .hold = call.flag("hold")};
  }));
}

void writeback(Arguments& given) {
  const Given<kWriteback> call(given);
  const Reference& cache = call.about();
  cache.store->writeback(cache.number, cache.version, call.integer("interval_tokens"),
                         call.flag("exclusive"));
}

}  // namespace nspjax::calls
