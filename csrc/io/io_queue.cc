#include "io/io_queue.h"

#include "base/error.h"

namespace nspjax {

std::unique_ptr<IoQueue> make_io_queue(std::string_view kind, int depth) {
  if (kind == "pread") return make_pread_queue(depth);
  if (kind != "uring" && kind != "auto") {
    fail(ErrorKind::kInvalidArgument, "io=\"", kind, "\": use uring, pread or auto");
  }
#ifdef NSPJAX_HAVE_URING
  int error = 0;
  if (auto queue = make_uring_queue(depth, error)) return queue;
  if (kind == "uring") {
    fail(ErrorKind::kInvalidArgument, "io=\"uring\" is not possible here: ", errno_text(error),
         "; use io=\"auto\" or \"pread\"");
  }
#else
  if (kind == "uring") {
    fail(ErrorKind::kInvalidArgument,
         "io=\"uring\": nspjax was built without liburing; use io=\"auto\" or \"pread\"");
  }
#endif
  return make_pread_queue(depth);
}

}  // namespace nspjax
