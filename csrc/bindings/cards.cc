#include "bindings/cards.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>

#include "bindings/paths.h"
#include "device/card.h"
#include "device/card_spec.h"
#include "device/pci_topology.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace nspjax {
namespace {

nb::dict card_info(nb::handle spec) {
  const CardSpec card_spec = parse_card(path_bytes(spec));
  const std::unique_ptr<Card> card = [&] {
    const nb::gil_scoped_release release;
    return open_xrt_card(card_spec);
  }();
  const CardInfo& info = card->info();
  nb::dict result;
  result["index"] = card_spec.index;
  result["path"] = path_text(card_spec.path);
  result["xclbin"] = path_text(card_spec.xclbin);
  result["timeout_s"] = static_cast<double>(card_spec.timeout.count()) / 1000;
  result["platform"] = info.name;
  result["address"] = info.address;
  result["kernel"] = info.kernel;
  result["compute_units"] = info.compute_units;
  return result;
}

}  // namespace

void bind_cards(nb::module_& m) {
  m.def(
      "expand_cards",
      [](const nb::list& specs) {
        nb::list expanded;
        for (const std::string& spec : expand_cards(path_bytes(specs), &std::getenv)) {
          expanded.append(path_text(spec));
        }
        return expanded;
      },
      "specs"_a, "One spec for each card, complete.");
  m.def("card_info", &card_info, "spec"_a,
        "Opens the card of an expanded spec, with its kernel, and closes it.");
  m.def(
      "on_same_switch",
      [](nb::handle sysfs, nb::handle directory, const std::string& address) {
        return on_same_switch(path_bytes(sysfs), path_bytes(directory), address);
      },
      "sysfs"_a, "directory"_a, "card_address"_a);
}

}  // namespace nspjax
