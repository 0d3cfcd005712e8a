// What shall go wrong on this card, and at which of its runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

namespace nspjax::xrt_emulator {

enum class RunFault { kNone, kDie, kDieInRun, kHang };

class Faults {
 public:
  // "die:after=3:card=1,hang:after=2": the fault meets the after-th run of the card; of every card
  // where none is named. What does not concern runs is left to others. nspjax.xrt_emulator.faults
  // has checked the text; throws std::invalid_argument all the same.
  Faults(std::string_view text, int card);

  // What happens to the run that begins now.
  RunFault begin_run();

 private:
  struct Planned {
    RunFault fault;
    std::uint64_t run;
  };
  std::vector<Planned> planned_;
  std::atomic<std::uint64_t> runs_ = 0;
};

}  // namespace nspjax::xrt_emulator
