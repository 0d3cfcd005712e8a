// Profiles of devices for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace nspjax {

// probe, measure_profile and kept_profile: dictionaries of DeviceProfile's fields.
void bind_profiles(nanobind::module_& m);

}  // namespace nspjax
