#include "bindings/profiles.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/paths.h"
#include "device/profile.h"

namespace nspjax {
namespace {

namespace nb = nanobind;

nb::dict fields_of(const DeviceProfile& profile) {
  nb::dict result;
  result["block_bytes"] = profile.block_bytes;
  result["depth"] = profile.depth;
  result["read_gb_per_s"] = profile.read_gb_per_s;
  result["write_gb_per_s"] = profile.write_gb_per_s;
  result["source"] = profile.source;
  result["note"] = printable(profile.note);
  return result;
}

}  // namespace

void bind_profiles(nb::module_& m) {
  using namespace nb::literals;
  m.def(
      "probe",
      [](nb::handle path, const std::string& io) {
        const std::string directory = path_bytes(path);
        return fields_of(without_gil([&] { return profile_of(directory, io); }));
      },
      "directory"_a, "io"_a = "auto",
      "How the directory's drive is best read: as kept there, or measured and kept.");
  m.def(
      "measure_profile",
      [](nb::handle path, const std::string& io) {
        const std::string directory = path_bytes(path);
        return fields_of(without_gil([&] { return measure_profile(directory, io); }));
      },
      "directory"_a, "io"_a = "auto", "The same, measured whatever is kept.");
  m.def(
      "kept_profile",
      [](nb::handle path, const std::string& io) -> nb::object {
        const std::string directory = path_bytes(path);
        const auto kept = without_gil([&] { return kept_profile(directory, io); });
        return kept ? nb::object(fields_of(*kept)) : nb::none();
      },
      "directory"_a, "io"_a = "auto", "The same, only if it is kept; None if not.");
}

}  // namespace nspjax
