// Bodies of requests and replies: flat protocol-buffer messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nspjax::xrt_emulator {

// A decoded body; refers to the bytes that it was made of.
class Message {
 public:
  // Throws std::invalid_argument for bytes that are no message.
  explicit Message(std::string_view bytes);

  // The last value of a field; 0 or empty where there is none.
  std::uint64_t number(std::uint32_t field) const;
  std::string_view bytes(std::uint32_t field) const;

 private:
  struct Field {
    std::uint32_t number;
    std::uint64_t value;
    std::string_view bytes;
  };
  const Field* find(std::uint32_t field) const;

  std::vector<Field> fields_;
};

// Encodes a body field by field.
class Body {
 public:
  Body& number(std::uint32_t field, std::uint64_t value);
  Body& bytes(std::uint32_t field, std::string_view value);
  std::string take() { return std::move(text_); }

 private:
  void varint(std::uint64_t value);

  std::string text_;
};

}  // namespace nspjax::xrt_emulator
