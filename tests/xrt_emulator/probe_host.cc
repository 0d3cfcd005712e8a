// A host for tests of the emulator: probe_host SCENARIO [ARGUMENT…]. Exit code 0 is good.
#include <experimental/xrt_xclbin.h>
#include <fcntl.h>
#include <unistd.h>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Words = std::uint32_t*;
constexpr std::uint32_t kWords = 5000;  // not a whole number of pages
constexpr std::size_t kBytes = kWords * 4;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void expect(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

struct Card {
  explicit Card(unsigned index, const std::string& name = "probe") : device(index) {
    kernel = xrt::kernel(device, device.load_xclbin(std::getenv("NSPJAX_XCLBIN")), name);
  }
  xrt::device device;
  xrt::kernel kernel;
};

struct Job {
  explicit Job(const Card& card, xrt::bo::flags in_flags = xrt::bo::flags::normal)
      : in(card.device, kBytes, in_flags, card.kernel.group_id(0)),
        out(card.device, kBytes, card.kernel.group_id(1)),
        run(card.kernel) {
    run.set_arg(0, in);
    run.set_arg(1, out);
    run.set_arg(2, kWords);
  }
  void fill(std::uint32_t seed) {
    for (std::uint32_t i = 0; i < kWords; ++i) in.map<Words>()[i] = seed * 1000003 + i;
  }
  void start(std::uint32_t number, std::uint32_t delay_us = 0) {
    run.set_arg(3, number);
    run.set_arg(4, delay_us);
    run.start();
  }
  // False: not within the limit.
  bool wait(double limit_s = 20) {
    const auto begin = Clock::now();
    while (run.state() < ERT_CMD_STATE_COMPLETED) {
      if (seconds_since(begin) > limit_s) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }
  bool right(std::uint32_t number) {
    const Words a = in.map<Words>(), b = out.map<Words>();
    if (b[0] != number) return false;
    for (std::uint32_t i = 1; i < kWords; ++i) {
      if (b[i] != 3 * a[i] + 1) return false;
    }
    return true;
  }
  // What the host does on hardware; false where the results are not this run's.
  bool whole(std::uint32_t number, std::uint32_t delay_us = 0) {
    fill(number);
    in.sync(XCL_BO_SYNC_BO_TO_DEVICE);
    start(number, delay_us);
    expect(wait(), "a run did not end");
    out.sync(XCL_BO_SYNC_BO_FROM_DEVICE);
    return right(number);
  }
  xrt::bo in, out;
  xrt::run run;
};

using Arguments = std::vector<std::string>;

// Threads make buffers and run on all cards at the same time.
void runs(const Arguments& arguments) {
  const int cards = std::stoi(arguments.at(0)), threads = std::stoi(arguments.at(1));
  std::vector<std::thread> workers;
  std::vector<std::string> errors(static_cast<std::size_t>(cards * threads));
  for (int c = 0; c < cards; ++c) {
    workers.emplace_back([c, threads, &errors] {
      std::vector<std::thread> inner;
      const Card card(static_cast<unsigned>(c));
      for (int t = 0; t < threads; ++t) {
        inner.emplace_back([&card, &error = errors[static_cast<std::size_t>(c * threads + t)], t] {
          try {
            Job job(card);
            for (std::uint32_t i = 1; i <= 5; ++i) {
              const std::uint32_t number = static_cast<std::uint32_t>(t) * 100 + i;
              expect(job.whole(number), "wrong results");
            }
          } catch (const std::exception& caught) {
            error = caught.what();
          }
        });
      }
      for (auto& thread : inner) thread.join();
    });
  }
  for (auto& worker : workers) worker.join();
  for (const auto& error : errors) expect(error.empty(), error);
}

// The first card's buffers stay usable when the next ones get their xclbin.
void load_late(const Arguments&) {
  const Card first(0);
  Job job(first, xrt::bo::flags::p2p);
  expect(job.whole(1), "before");
  const Card second(1);
  Job other(second);
  expect(job.whole(2) && other.whole(3), "after");
}

void open_twice(const Arguments&) {
  const xrt::device device(0);
  {
    const Card card(0);
  }
  const Card again(0);
  {
    const xrt::device other(0);
  }
  Job job(again);
  expect(job.whole(1), "wrong results");
}

void forget(const Arguments& arguments) {
  const Card card(0);
  Job job(card);
  job.fill(7);
  if (arguments.at(0) != "to-device") job.in.sync(XCL_BO_SYNC_BO_TO_DEVICE);
  job.start(7);
  expect(job.wait(), "the run did not end");
  if (arguments.at(0) != "to-host") job.out.sync(XCL_BO_SYNC_BO_FROM_DEVICE);
  std::puts(job.right(7) ? "right" : "wrong");
}

// File -> P2P buffer -> kernel, and P2P buffer -> file, by the drive's own transfers.
void p2p(const Arguments& arguments) {
  const std::size_t file_bytes = (kBytes + 4095) / 4096 * 4096;
  const int file = ::open(arguments.at(0).c_str(), O_RDWR | O_DIRECT);
  expect(file >= 0, "open with O_DIRECT");
  const Card card(0);
  Job job(card, xrt::bo::flags::p2p);
  char* const mapped = job.in.map<char*>();
  expect(::pread(file, mapped, file_bytes, 0) == static_cast<ssize_t>(file_bytes), "pread");
  job.start(1);
  expect(job.wait(), "the run did not end");
  job.out.sync(XCL_BO_SYNC_BO_FROM_DEVICE);
  expect(job.right(1) && job.in.map<Words>()[kWords - 1] == kWords - 1, "not the file's data");
  job.fill(9);
  expect(::pwrite(file, mapped, file_bytes, 0) == static_cast<ssize_t>(file_bytes), "pwrite");
  ::close(file);
}

void overlap(const Arguments& arguments) {
  const int units = std::stoi(arguments.at(0));
  const Card card(0);
  std::vector<Job> jobs;
  for (int i = 0; i < units; ++i) jobs.emplace_back(card);
  const auto begin = Clock::now();
  for (auto& job : jobs) job.start(1, 200'000);
  for (auto& job : jobs) expect(job.wait(), "a run did not end");
  std::printf("%.3f\n", seconds_since(begin));
}

// Runs on every card until one of its runs has no results, or there were enough; then all are
// closed and opened again.
void survive(const Arguments& arguments) {
  const int cards = std::stoi(arguments.at(0)), rounds = std::stoi(arguments.at(1));
  const auto most = static_cast<std::uint32_t>(std::stoi(arguments.at(2)));
  const std::uint32_t delay_us = 300;
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::unique_ptr<Card>> opened(static_cast<std::size_t>(cards));
    std::vector<std::uint32_t> good(opened.size());
    std::vector<std::thread> workers;
    for (std::size_t c = 0; c < opened.size(); ++c) {
      workers.emplace_back([&opened, &good, most, delay_us, c] {
        try {
          opened[c] = std::make_unique<Card>(static_cast<unsigned>(c));
          Job job(*opened[c]);
          while (good[c] < most && job.whole(good[c] + 1, delay_us)) ++good[c];
        } catch (const std::exception& error) {
          std::printf("%s\n", error.what());
        }
      });
    }
    for (auto& worker : workers) worker.join();
    for (std::size_t c = 0; c < opened.size(); ++c) {
      std::printf("round %d card %zu good %u\n", round, c, good[c]);
    }
    std::fflush(stdout);
  }
}

void watchdog(const Arguments&) {
  const auto begin = Clock::now();
  {
    const Card hangs(0), other(1);
    Job job(hangs), good(other);
    job.fill(1);
    job.start(1);
    std::puts(job.wait(0.5) ? "ended" : "hangs");
    expect(good.whole(2), "the other card");
  }
  expect(seconds_since(begin) < 5, "closing took too long");
  const Card again(1);
  Job job(again);
  expect(job.whole(3), "after closing");
}

void leave_open(const Arguments& arguments) {
  auto* card = new Card(0);
  auto* job = new Job(*card);
  expect(job->whole(1), "wrong results");
  std::exit(std::stoi(arguments.at(0)));  // cards and buffers were not closed
}

void describe(const Arguments& arguments) {
  const xrt::xclbin xclbin(arguments.at(0));
  for (const auto& kernel : xclbin.get_kernels()) {
    std::printf("kernel %s\n", kernel.get_name().c_str());
    for (const auto& argument : kernel.get_args()) {
      std::printf("argument %s %s %zx %zu\n", argument.get_name().c_str(),
                  argument.get_host_type().c_str(), argument.get_offset(), argument.get_size());
    }
    for (const auto& unit : kernel.get_cus()) {
      std::printf("unit %s %lx\n", unit.get_name().c_str(), unit.get_base_address());
    }
  }
  for (const auto& bank : xclbin.get_mems()) {
    std::printf("bank %s %lx %lu\n", bank.get_tag().c_str(), bank.get_base_address(),
                bank.get_size_kb());
  }
}

// Opens a card, says so, and keeps it until it is killed.
void hold(const Arguments& arguments) {
  const Card card(0, arguments.at(0));
  std::puts("open"), std::fflush(stdout);
  for (;;) ::pause();
}

void open_card(const Arguments& arguments) {
  const Card card(static_cast<unsigned>(std::stoi(arguments.at(1))), arguments.at(0));
}

void get_p2p_memory(const Arguments&) {
  const Card card(0);
  const Job ordinary(card);
  try {
    const Job job(card, xrt::bo::flags::p2p);
    std::puts("granted");
  } catch (const std::exception& error) {
    std::printf("refused: %s\n", error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<void(const Arguments&)>> scenarios{
      {"runs", runs},
      {"load-late", load_late},
      {"open-twice", open_twice},
      {"forget", forget},
      {"p2p", p2p},
      {"overlap", overlap},
      {"survive", survive},
      {"watchdog", watchdog},
      {"leave-open", leave_open},
      {"describe", describe},
      {"open", open_card},
      {"hold", hold},
      {"get-p2p", get_p2p_memory}};
  try {
    // XRT loads its shim with the first card, and is not ready for others before it has
    {
      const xrt::device first(0);
    }
    scenarios.at(argv[1])(Arguments(argv + 2, argv + argc));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "probe_host: %s\n", error.what());
    return 1;
  }
}
