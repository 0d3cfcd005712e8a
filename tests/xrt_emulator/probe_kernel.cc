// A kernel for tests of the emulator: out[i] = 3 in[i] + 1 from i = 1 on, out[0] = run, last.
#include <chrono>
#include <cstdint>
#include <thread>

#include "xrt_emulator/kernel/binding.h"

namespace {

void probe(const std::uint32_t* in, std::uint32_t* out, std::uint32_t n, std::uint32_t run,
           std::uint32_t delay_us) {
  std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
  for (std::uint32_t i = 1; i < n; ++i) out[i] = 3 * in[i] + 1;
  out[0] = run;
}

}  // namespace

extern "C" void probe_on_registers(const nspjax::xrt_emulator::Registers& registers) {
  nspjax::xrt_emulator::call(&probe, registers);
}
