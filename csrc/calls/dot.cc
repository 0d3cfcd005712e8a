// Products with weights.
#include "dot/dot.h"

#include "calls/arguments.h"
#include "calls/table.h"

namespace nspjax::calls {

void dot(Arguments& given) {
  const Given<kDot> call(given);
  const Sizes sizes = call.check();
  nspjax::dot({.x = call.operand("x").as<const uint16_t>(),
               .w = call.operand("w").as<const uint16_t>(),
               .out = call.result("out").as<float>(),
               .m = sizes['M'],
               .k = sizes['K'],
               .n = sizes['N'],
               .transposed = call.flag("transposed")},
              call.threads().n, call.threads().schedule);
}

}  // namespace nspjax::calls
