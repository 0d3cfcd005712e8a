#include "xrt_emulator/device/card.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

namespace nspjax::xrt_emulator {
namespace {

std::string acknowledge(bool good) { return Body().number(1, good).take(); }

void complain(const std::string& text) {
  std::fprintf(stderr, "nspjax emulated card: %s\n", text.c_str());
}

}  // namespace

Card::Card(const EventLog& log, Faults& faults, bool strict_sync,
           std::function<void()> die_at_next_write)
    : log_(log),
      faults_(faults),
      strict_sync_(strict_sync),
      die_at_next_write_(std::move(die_at_next_write)) {}

std::string Card::answer(Api api, std::string_view bytes) {
  const Message request(bytes);
  switch (api) {
    case Api::kClose:
      closed_ = request.number(3);
      return acknowledge(true);
    case Api::kLoad:
      return acknowledge(load(std::string(request.bytes(1)), std::string(request.bytes(2))));
    case Api::kAllocate:
      return allocate(request);
    case Api::kFree:
      memory_.free(request.number(1));
      log_.write("free", Json().number("address", request.number(1)));
      return acknowledge(true);
    case Api::kToDevice:
      return to_device(request);
    case Api::kToHost:
      return to_host(request);
    case Api::kWriteControl:
      write_register(request.number(2), request.bytes(4));
      return acknowledge(true);
    case Api::kWriteRegister:
      write_register(request.number(1) + request.number(2), request.bytes(3));
      return acknowledge(true);
    case Api::kReadControl:
      return read_register(request.number(2));
    case Api::kReadRegister:
      return read_register(request.number(1) + request.number(2));
    case Api::kSetEnvironment:
    case Api::kSetupInstance:
      return acknowledge(true);
    case Api::kCopyBuffer:
    case Api::kImportBuffer:
    case Api::kCopyFromExported:
      break;
  }
  complain("request " + std::to_string(static_cast<std::uint32_t>(api)) + " is not emulated");
  return acknowledge(false);
}

bool Card::load(const std::string& xml_path, const std::string& object_path) {
  const bool busy = std::ranges::any_of(units_, [](auto& unit) { return unit.second->busy(); });
  if (busy) complain("an xclbin is loaded while a run goes on");
  if (busy) return false;
  units_.clear();
  if (xml_path.empty()) return true;  // what the shim sends where memory comes before an xclbin
  std::ifstream file(xml_path, std::ios::binary);
  const std::string xml{std::istreambuf_iterator<char>(file), {}};
  // never closed: what a kernel left behind, thread-local storage say, may lie in it
  void* const object = ::dlopen(object_path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!object) {
    complain(std::string("the bitstream is no kernel of this emulator: ") + ::dlerror());
    return false;
  }
  for (const KernelMetadata& kernel : parse_kernels(xml)) {
    const std::string symbol = kernel.name + "_on_registers";
    const auto function = reinterpret_cast<KernelFunction>(::dlsym(object, symbol.c_str()));
    if (!function) complain("no " + symbol + " in the xclbin: runs of it do nothing");
    Json names;
    for (const ComputeUnitPlace& place : kernel.compute_units) {
      units_[place.base] = std::make_unique<ComputeUnit>(
          place.name, function, kernel.arguments,
          ComputeUnit::Card{memory_, log_, faults_, die_at_next_write_});
      names.number(place.name, place.base);
    }
    log_.write("load", Json().text("kernel", kernel.name).object("compute_units", names));
  }
  return true;
}

std::string Card::allocate(const Message& request) {
  const std::uint64_t address = request.number(1);
  const std::uint64_t size_bytes = std::max<std::uint64_t>(request.number(2), 1);
  const auto kind = static_cast<BufferKind>(request.number(kKindField));
  const bool apart =
      kind == BufferKind::kUserMemory || (kind == BufferKind::kOrdinary && strict_sync_);
  const bool shared = request.number(3) && !apart;
  const bool good = memory_.allocate(address, size_bytes, kind, shared);
  log_.write("allocate", Json()
                             .number("address", address)
                             .number("bytes", size_bytes)
                             .text("kind", name_of(kind))
                             .boolean("shared", shared)
                             .boolean("refused", !good));
  Body reply;
  reply.number(1, good);
  if (good && shared) reply.bytes(2, path_of(*memory_.buffer_at(address)));
  return reply.take();
}

std::string Card::to_device(const Message& request) {
  const std::uint64_t address = request.number(3);
  const std::string_view data = request.bytes(4);
  const auto buffer = memory_.buffer_at(address);
  const bool copied = buffer && !buffer->shared();
  if (copied) {
    const std::span<std::byte> to = memory_.bytes(address, data.size());
    std::memcpy(to.data(), data.data(), to.size());
  }
  log_.write(
      "to_device",
      Json().number("address", address).number("bytes", data.size()).boolean("copied", copied));
  return Body().number(1, data.size()).take();
}

std::string Card::to_host(const Message& request) {
  const std::uint64_t address = request.number(4);
  const std::uint64_t size_bytes = request.number(5);
  const auto buffer = memory_.buffer_at(address);
  const bool copied = buffer && !buffer->shared();
  log_.write(
      "to_host",
      Json().number("address", address).number("bytes", size_bytes).boolean("copied", copied));
  // of shared pages nothing is sent: the host has them
  const std::span<std::byte> from =
      copied ? memory_.bytes(address, size_bytes) : std::span<std::byte>{};
  return Body()
      .number(1, from.size())
      .bytes(2, {reinterpret_cast<const char*>(from.data()), from.size()})
      .take();
}

ComputeUnit* Card::unit_at(std::uint64_t address) {
  const auto after = units_.upper_bound(address);
  if (after == units_.begin()) return nullptr;
  const auto& [base, unit] = *std::prev(after);
  return address < base + kUnitRange ? unit.get() : nullptr;
}

void Card::write_register(std::uint64_t address, std::string_view bytes) {
  ComputeUnit* const unit = unit_at(address);
  if (!unit) return;
  unit->write(address % kUnitRange,
              {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
}

std::string Card::read_register(std::uint64_t address) {
  ComputeUnit* const unit = unit_at(address);
  const std::uint32_t value = unit ? unit->read(address % kUnitRange) : kIdle;
  return Body()
      .number(1, true)
      .bytes(2, {reinterpret_cast<const char*>(&value), sizeof value})
      .take();
}

}  // namespace nspjax::xrt_emulator
