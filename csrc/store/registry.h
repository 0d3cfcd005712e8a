// Stores by the number that a handle carries. Handles outlive stores, so this owns none.
#pragma once

#include <cstdint>
#include <memory>

#include "store/store.h"

namespace nspjax {

std::shared_ptr<Store> open_store(const StoreOptions& options);
// Throws StoreClosed where there is no such store any more.
std::shared_ptr<Store> find_store(int32_t id);

}  // namespace nspjax
