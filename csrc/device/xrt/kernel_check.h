// Whether an xclbin has the attention kernel that this build was made for.
#pragma once

#include <experimental/xrt_xclbin.h>

#include <string>

namespace nspjax {

// Throws Accelerator where the file is missing, no xclbin, or its kernel or arguments are others.
xrt::xclbin read_xclbin(const std::string& path);

}  // namespace nspjax
