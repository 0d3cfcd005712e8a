#include "attention/kernel.h"
#include "base/error.h"

namespace nspjax {

const TypeKernels& KernelSet::of(DType type) const { return kernels[static_cast<size_t>(type)]; }

std::vector<KernelSet> available_kernels() {
  std::vector<KernelSet> kernels;
#ifdef NSPJAX_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
    kernels.push_back(avx512_bf16_kernels());
  }
  if (avx512) kernels.push_back(avx512_kernels());
  if (avx2) kernels.push_back(avx2_kernels());
#endif
  kernels.push_back(scalar_kernels());
  return kernels;
}

KernelSet find_kernel(std::string_view name) {
  const std::vector<KernelSet> kernels = available_kernels();
  if (name == "auto") return kernels.front();
  std::string names;
  for (const KernelSet& kernel : kernels) {
    if (kernel.name == name) return kernel;
    names.append(", ").append(kernel.name);
  }
  fail(ErrorKind::kInvalidArgument, "kernel=\"", name, "\" is not possible here: use auto", names);
}

}  // namespace nspjax
