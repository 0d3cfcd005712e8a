// How a store is opened, and each lane of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/rate_limited.h"

namespace nspjax {

struct StoreOptions {
  std::vector<std::string> devices;
  int64_t host_memory_bytes = 0;
  int threads = 0;  // 0: one a core
  std::string io = "auto";
  std::string kernel = "auto";
  bool checksums = true;           // verify what is read from devices
  int64_t pinned_bytes = -1;       // of host memory at most, for pinned tiles; -1: what is left
  int64_t trace_events = 1 << 16;  // the newest kept; 0: none
  StoreRateLimit rate_limit = {};
  std::string fault;   // for tests, see io/fault.h
  double x_share = 0;  // of host memory, for X-caches; 0: half of what is free is lent to them
};

struct LaneOptions {
  std::vector<std::string> devices;
  std::string file_name;      // in each directory
  int32_t first_cache = 0;    // the number of its first cache
  int64_t host_memory_bytes;  // of the store's
  int64_t pinned_bytes;
  SimulatedHardware hardware = {};  // another lane's; without, it is made as the store is limited
};

}  // namespace nspjax
