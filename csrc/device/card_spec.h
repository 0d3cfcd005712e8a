// How a store names cards.
//
//   xrt:0,1?xclbin=attention.xclbin&path=/mnt/smartssd{card}&timeout_s=8
//
// {card} stands for a card's number. What is left out of xclbin and path comes from the environment
// variables NSPJAX_XCLBIN and NSPJAX_XRT_PATH.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "device/card.h"

namespace nspjax {

// Null where there is no such variable.
using Environment = std::function<const char*(const char*)>;

bool names_cards(const std::string& spec);

// One spec for each card of those that name several, complete; others as they are. Throws
// InvalidArgument.
std::vector<std::string> expand_cards(const std::vector<std::string>& specs,
                                      const Environment& environment);

// Of one card. Throws InvalidArgument.
CardSpec parse_card(const std::string& spec);

}  // namespace nspjax
