#include "format/planes.h"

#include "base/error.h"

namespace nspjax {

void PageRun::check() const {
  for (const Plane& each : planes()) {
    if (each.heads == heads() && each.width == width() && each.stored == stored()) continue;
    fail(ErrorKind::kInvalidArgument, "the planes ", plane[0].name, " and ", each.name,
         " cannot be side by side: they have ", heads(), " x ", width(), " elements of ",
         dtype_name(stored()), " and ", each.heads, " x ", each.width, " of ",
         dtype_name(each.stored), "; give each a run of its own");
  }
}

}  // namespace nspjax
