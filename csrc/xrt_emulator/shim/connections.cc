#include "xrt_emulator/shim/connections.h"

#include <map>
#include <mutex>

namespace nspjax::xrt_emulator {
namespace {

// Never destroyed: XRT closes cards from destructors of static objects.
struct Tables {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Connection>> by_socket;
  std::map<const void*, std::shared_ptr<Connection>> by_device;
};

Tables& tables() {
  static auto& the_tables = *new Tables;
  return the_tables;
}

template <typename Key>
std::shared_ptr<Connection> find(const std::map<Key, std::shared_ptr<Connection>>& table, Key key) {
  const auto found = table.find(key);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace

ThreadState& this_thread() {
  thread_local ThreadState state;
  return state;
}

void add_connection(int socket, pid_t process) {
  const std::lock_guard lock(tables().mutex);
  tables().by_socket[socket] = std::make_shared<Connection>(socket, process);
}

std::shared_ptr<Connection> connection_at(int socket) {
  const std::lock_guard lock(tables().mutex);
  return find(tables().by_socket, socket);
}

void drop_connection(int socket) {
  const std::lock_guard lock(tables().mutex);
  tables().by_socket.erase(socket);
}

void remember_connection(const void* device, std::shared_ptr<Connection> connection) {
  const std::lock_guard lock(tables().mutex);
  tables().by_device[device] = std::move(connection);
}

std::shared_ptr<Connection> connection_of(const void* device) {
  const std::lock_guard lock(tables().mutex);
  return find(tables().by_device, device);
}

}  // namespace nspjax::xrt_emulator
