// Which tiles rows share, in as few runs as can be.
#pragma once

#include <span>

#include "store/row.h"

namespace nspjax {

// Cuts what rows have of a region where one of them begins or ceases to have it, and nowhere else:
// then every run is of one set of rows, and one scan of it serves them all. Rows whose tiles were
// handed on time and again would otherwise have a run for each tile. Nothing may be queued.
void regroup_shared_runs(std::span<Row> rows);

}  // namespace nspjax
