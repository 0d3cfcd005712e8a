#include "store/registry.h"

#include <map>
#include <mutex>

#include "base/process.h"

namespace nspjax {
namespace {

// Under mutex_across_forks(): a child opens stores too.
std::map<int32_t, std::weak_ptr<Store>>& registry() {
  static std::map<int32_t, std::weak_ptr<Store>> stores;
  return stores;
}

}  // namespace

std::shared_ptr<Store> open_store(const StoreOptions& options) {
  std::shared_ptr<Store> store(std::make_unique<Store>(options).release(), DeleteInOwnProcess());
  std::lock_guard lock(mutex_across_forks());
  std::erase_if(registry(), [](const auto& entry) { return entry.second.expired(); });
  registry().insert_or_assign(store->id(), store);
  return store;
}

std::shared_ptr<Store> find_store(int32_t id) {
  std::lock_guard lock(mutex_across_forks());
  const auto found = registry().find(id);
  if (found != registry().end()) {
    if (auto store = found->second.lock()) return store;
  }
  fail(ErrorKind::kStoreClosed, "store ", id, " of this handle is closed, or of another process");
}

}  // namespace nspjax
