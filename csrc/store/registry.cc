#include "store/registry.h"

#include <map>
#include <mutex>

namespace nspjax {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<int32_t, std::weak_ptr<Store>> stores;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

std::shared_ptr<Store> open_store(const StoreOptions& options) {
  auto store = std::make_shared<Store>(options);
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  std::erase_if(r.stores, [](const auto& entry) { return entry.second.expired(); });
  r.stores.emplace(store->id(), store);
  return store;
}

std::shared_ptr<Store> find_store(int32_t id) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  const auto found = r.stores.find(id);
  if (found != r.stores.end()) {
    if (auto store = found->second.lock()) return store;
  }
  fail(ErrorKind::kStoreClosed, "store ", id, " of this handle is closed, or of another process");
}

}  // namespace nspjax
