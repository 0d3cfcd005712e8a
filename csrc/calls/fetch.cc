// Tokens out of a cache for attention elsewhere, and what is read ahead of it.
#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {

void fetch(Arguments& given) {
  const Given<kFetch> call(given);
  const Reference& cache = call.about();
  cache.store->fetch(cache.number, cache.version, [&](const CacheShape& shape) {
    const int64_t n_tokens = call.integer("n_tokens");
    call.check(shape, {{'T', n_tokens}, {'H', shape.n_kv_heads}, {'D', shape.head_dim}});
    return FetchArgs{.rows = call.operand("rows").integers(),
                     .length = call.operand("length").integers(),
                     .begin = call.operand("begin").integers()[0],
                     .n_tokens = n_tokens,
                     .window = call.integer("window"),
                     .read_ahead = call.flag("read_ahead"),
                     .k = call.result("k").as<std::byte>(),
                     .v = call.result("v").as<std::byte>()};
  });
  call.give_next(cache.version);
}

void prefetch(Arguments& given) {
  const Given<kPrefetch> call(given);
  call.check();
  const Reference& cache = call.about();
  cache.store->prefetch(cache.number, {.rows = call.operand("rows").integers(),
                                       .length = call.operand("length").integers(),
                                       .most_bytes = call.integer("most_bytes")});
}

void x_cache(Arguments& given) {
  const Given<kXCache> call(given);
  const Reference& cache = call.about();
  call.give("x",
            cache.store->x_cache(cache.number, call.integer("n_heads"), call.integer("head_dim")));
}

}  // namespace nspjax::calls
