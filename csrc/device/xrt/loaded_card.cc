#include "device/xrt/loaded_card.h"

#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>

#include "attention/interface.h"
#include "base/error.h"
#include "device/xrt/kernel_check.h"

namespace nspjax {
namespace {

std::string address_of(const xrt::device& device) {
  if (std::getenv("XCL_EMULATION_MODE")) return "";  // XRT says 0000:00:00.0, the host's bridge
  try {
    return device.get_info<xrt::info::device::bdf>();
  } catch (const std::exception&) {
    return "";
  }
}

xrt::device open_device(int index) {
  try {
    return xrt::device(static_cast<unsigned>(index));
  } catch (const std::exception& error) {
    fail(ErrorKind::kAccelerator, "there is no card ", index, " that XRT can open: ", error.what(),
         "; `xbutil examine` lists cards, and without one `nspjax emulate-xrt` runs ",
         "a command with emulated ones");
  }
}

LoadedCard load(const CardSpec& spec, const xrt::xclbin& xclbin) {
  LoadedCard card{.device = open_device(spec.index), .xclbin = {}, .kernel = {}, .info = {}};
  try {
    card.xclbin = card.device.load_xclbin(xclbin);
    card.kernel = xrt::kernel(card.device, card.xclbin, kernel::kName);
  } catch (const std::exception& error) {
    fail(ErrorKind::kAccelerator, "card ", spec.index, " did not load its xclbin ", spec.xclbin,
         ": ", error.what(), "; see dmesg and `xbutil examine`");
  }
  const auto n_units = xclbin.get_kernel(kernel::kName).get_cus().size();
  card.info = {.name = xclbin.get_xsa_name(),
               .address = address_of(card.device),
               .kernel = kernel::kName,
               .compute_units = static_cast<int>(n_units)};
  return card;
}

}  // namespace

std::shared_ptr<LoadedCard> load_card(const CardSpec& spec) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<LoadedCard>> loaded;
  const xrt::xclbin xclbin = read_xclbin(spec.xclbin);
  std::lock_guard lock(mutex);
  if (auto card = loaded[spec.index].lock()) {
    if (card->xclbin == xclbin.get_uuid()) return card;
    fail(ErrorKind::kAccelerator, "card ", spec.index, " has another xclbin than ", spec.xclbin,
         ", for a store of this process: close that store, or give its xclbin");
  }
  auto card = std::make_shared<LoadedCard>(load(spec, xclbin));
  loaded[spec.index] = card;
  return card;
}

}  // namespace nspjax
