// The attention kernel as the emulated card runs it: its C simulation behind a register file.
#include "attention/attention.h"

#include "xrt_emulator/kernel/binding.h"

extern "C" __attribute__((visibility("default"))) void nspjax_attention_on_registers(
    const nspjax::xrt_emulator::Registers& registers) {
  nspjax::xrt_emulator::call(&nspjax_attention, registers);
}
