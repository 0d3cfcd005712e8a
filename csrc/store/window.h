// What a cache with a window has of a row: its newest tokens, in a ring of slots. A tile takes the
// place of an older one when it is written; tokens that lose their place are dropped, and `begin`
// moves up. Whatever reads them was queued before, and has run by then.
//
// Each check throws InvalidArgument. what: "read of", for the error.
#pragma once

#include <cstdint>

#include "store/cache.h"

namespace nspjax {

// So much of a row is asked for, 0 being all, that a cache with a window need not have it.
void check_window(const char* what, const CacheShape& shape, int64_t window);
// Rows are to share tiles.
void check_can_share(const char* what, const CacheShape& shape);
// Tokens from `begin` on are asked for.
void check_kept(const char* what, const Cache& cache, int64_t row, int64_t begin);
// Whether a row has its whole window once it is cut back to so many tokens.
bool has_window(const Cache& cache, int64_t row, int64_t length);
void check_cut(const char* what, const Cache& cache, int64_t row, int64_t length);

}  // namespace nspjax
