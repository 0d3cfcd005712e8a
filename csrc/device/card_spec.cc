#include "device/card_spec.h"

#include <charconv>
#include <map>
#include <set>
#include <string_view>

#include "base/error.h"

namespace nspjax {
namespace {

constexpr std::string_view kXrt = "xrt:";
constexpr std::string_view kCard = "{card}";
constexpr std::chrono::milliseconds kTimeout{8000};
constexpr double kMostTimeoutS = 3600;

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct Parts {
  std::vector<int> cards;
  std::map<std::string, std::string> options;
};

Parts parse(const std::string& spec) {
  Parts parts;
  const std::string_view rest = std::string_view(spec).substr(kXrt.size());
  const size_t mark = std::min(rest.find('?'), rest.size());
  for (const std::string& text : split(rest.substr(0, mark), ',')) {
    const auto card = number<int>(text);
    if (!card || *card < 0) {
      fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" names a card \"", text,
           "\": write the cards' numbers, as in xrt:0,1");
    }
    parts.cards.push_back(*card);
  }
  if (mark == rest.size()) return parts;
  for (const std::string& text : split(rest.substr(mark + 1), '&')) {
    const size_t equals = std::min(text.find('='), text.size());
    const std::string name = text.substr(0, equals);
    static const std::set<std::string> kNames = {"xclbin", "path", "timeout_s"};
    if (equals == text.size() || !kNames.contains(name)) {
      fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" has \"", text,
           "\": a card's options are xclbin=FILE, path=DIRECTORY and timeout_s=SECONDS");
    }
    parts.options[name] = text.substr(equals + 1);
  }
  return parts;
}

// What the spec says, or else the environment.
std::string option(const Parts& parts, const char* name, const char* variable,
                   const std::string& spec, const Environment& environment) {
  const auto given = parts.options.find(name);
  if (given != parts.options.end() && !given->second.empty()) return given->second;
  const char* value = environment(variable);
  if (value && *value) return value;
  fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" has no ", name, ": write xrt:0?",
       name, "=..., or set ", variable);
}

std::string for_card(std::string pattern, int card) {
  for (size_t at = pattern.find(kCard); at != std::string::npos; at = pattern.find(kCard)) {
    pattern.replace(at, kCard.size(), std::to_string(card));
  }
  return pattern;
}

}  // namespace

bool names_cards(const std::string& spec) { return spec.starts_with(kXrt); }

std::vector<std::string> expand_cards(const std::vector<std::string>& specs,
                                      const Environment& environment) {
  std::vector<std::string> expanded;
  std::set<int> cards;
  for (const std::string& spec : specs) {
    if (!names_cards(spec)) {
      expanded.push_back(spec);
      continue;
    }
    const Parts parts = parse(spec);
    const std::string xclbin = option(parts, "xclbin", "NSPJAX_XCLBIN", spec, environment);
    const std::string path = option(parts, "path", "NSPJAX_XRT_PATH", spec, environment);
    if (parts.cards.size() > 1 && path.find(kCard) == std::string::npos) {
      fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" has ", parts.cards.size(),
           " cards and one path, ", path, ": each has a drive of its own; write ", kCard,
           " where the card's number belongs");
    }
    const auto timeout = parts.options.find("timeout_s");
    for (const int card : parts.cards) {
      if (!cards.insert(card).second) {
        fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" has card ", card, " twice");
      }
      expanded.push_back(
          concat(kXrt, card, "?xclbin=", for_card(xclbin, card), "&path=", for_card(path, card)));
      if (timeout != parts.options.end()) expanded.back() += "&timeout_s=" + timeout->second;
      parse_card(expanded.back());
    }
  }
  return expanded;
}

CardSpec parse_card(const std::string& spec) {
  const Parts parts = parse(spec);
  const bool complete = parts.options.contains("xclbin") && parts.options.contains("path");
  if (parts.cards.size() != 1 || !complete) {
    fail(ErrorKind::kInvalidArgument, "\"", spec, "\" is not one card with its xclbin and path: ",
         "expand_cards makes such specs of a store's");
  }
  CardSpec card{.index = parts.cards.front(),
                .xclbin = parts.options.at("xclbin"),
                .path = parts.options.at("path"),
                .timeout = kTimeout};
  const auto text = parts.options.find("timeout_s");
  if (text != parts.options.end()) {
    const auto seconds = number<double>(text->second);
    if (!seconds || !(*seconds > 0) || *seconds > kMostTimeoutS) {
      fail(ErrorKind::kInvalidArgument, "the store \"", spec, "\" has timeout_s=", text->second,
           ": write seconds, more than 0 and up to ", kMostTimeoutS);
    }
    card.timeout = std::chrono::milliseconds(static_cast<int64_t>(*seconds * 1000));
  }
  return card;
}

}  // namespace nspjax
