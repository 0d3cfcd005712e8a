// Attention over a cache, in one call or two.
#include <algorithm>

#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {
namespace {

// All but where the result goes.
template <const Call& kCall>
AttendArgs attend_args(const Given<kCall>& call, const CacheShape& shape) {
  const Sizes sizes = call.check(shape, {{'D', shape.head_dim}});
  const Array& q = call.operand("q");
  return {.q = q.data,
          .q_dtype = parse_dtype(q.type),
          .n_tokens = sizes['T'],
          .n_q_heads = sizes['Q'],
          .rows = call.operand("rows").integers(),
          .position = call.operand("position").integers(),
          .length = call.operand("length").integers(),
          .scale = call.real("scale"),
          .window = call.integer("window"),
          .softcap = call.real("softcap"),
          .out = nullptr,
          .lse = nullptr,
          .read_ahead = call.flag("read_ahead"),
          .sparsity = {.mass = call.real("mass"),
                       .budget = call.real("budget"),
                       .block_tokens = call.integer("block_tokens")}};
}

}  // namespace

void attend(Arguments& given) {
  const Given<kAttend> call(given);
  const Reference& cache = call.about();
  cache.store->attend(cache.number, cache.version, [&](const CacheShape& shape) {
    AttendArgs args = attend_args(call, shape);
    args.out = call.result("out").as<float>();
    args.lse = call.result("lse").as<float>();
    return args;
  });
  call.give_next(cache.version);
}

void attend_start(Arguments& given) {
  const Given<kAttendStart> call(given);
  const Reference& cache = call.about();
  const int32_t ticket =
      cache.store->attend_start(cache.number, cache.version,
                                [&](const CacheShape& shape) { return attend_args(call, shape); });
  call.give("ticket", {cache.store->id(), ticket, 0});
  call.give_next(cache.version);
}

void attend_wait(Arguments& given) {
  const Given<kAttendWait> call(given);
  const AttendResult result = call.about().store->attend_wait(call.about().number);
  const auto& [batch, n_tokens, n_q_heads, head_dim] = result.sizes;
  call.check({{'B', batch}, {'T', n_tokens}, {'Q', n_q_heads}, {'D', head_dim}});
  std::ranges::copy(result.out, call.result("out").as<float>());
  std::ranges::copy(result.lse, call.result("lse").as<float>());
}

}  // namespace nspjax::calls
