// Cards in Python: what a store's spec names, and what is there.
#pragma once

#include <nanobind/nanobind.h>

namespace nspjax {

void bind_cards(nanobind::module_& m);

}  // namespace nspjax
