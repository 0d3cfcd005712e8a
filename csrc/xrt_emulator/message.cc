#include "xrt_emulator/message.h"

#include <cstring>
#include <stdexcept>

namespace nspjax::xrt_emulator {
namespace {

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool at_end() const { return rest_.empty(); }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(take(1)[0]);
      value |= std::uint64_t{byte & 127u} << shift;
      if (!(byte & 128u)) return value;
    }
    throw std::invalid_argument("a varint of more than 10 bytes");
  }
  std::string_view take(std::uint64_t n_bytes) {
    if (n_bytes > rest_.size()) throw std::invalid_argument("a message ends inside a field");
    const std::string_view taken = rest_.substr(0, n_bytes);
    rest_.remove_prefix(n_bytes);
    return taken;
  }
  std::uint64_t fixed(std::size_t n_bytes) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(n_bytes).data(), n_bytes);
    return value;
  }

 private:
  std::string_view rest_;
};

}  // namespace

Message::Message(std::string_view bytes) {
  for (Reader reader(bytes); !reader.at_end();) {
    const std::uint64_t key = reader.varint();
    Field field{static_cast<std::uint32_t>(key >> 3), 0, {}};
    switch (key & 7) {
      case kVarint:
        field.value = reader.varint();
        break;
      case kFixed64:
        field.value = reader.fixed(8);
        break;
      case kDelimited:
        field.bytes = reader.take(reader.varint());
        break;
      case kFixed32:
        field.value = reader.fixed(4);
        break;
      default:
        throw std::invalid_argument("a field of an unknown wire type");
    }
    fields_.push_back(field);
  }
}

const Message::Field* Message::find(std::uint32_t field) const {
  for (auto it = fields_.rbegin(); it != fields_.rend(); ++it) {
    if (it->number == field) return &*it;
  }
  return nullptr;
}

std::uint64_t Message::number(std::uint32_t field) const {
  const Field* found = find(field);
  return found ? found->value : 0;
}

std::string_view Message::bytes(std::uint32_t field) const {
  const Field* found = find(field);
  return found ? found->bytes : std::string_view{};
}

void Body::varint(std::uint64_t value) {
  for (; value > 127; value >>= 7) text_.push_back(static_cast<char>(value | 128));
  text_.push_back(static_cast<char>(value));
}

Body& Body::number(std::uint32_t field, std::uint64_t value) {
  varint(std::uint64_t{field} << 3 | kVarint);
  varint(value);
  return *this;
}

Body& Body::bytes(std::uint32_t field, std::string_view value) {
  varint(std::uint64_t{field} << 3 | kDelimited);
  varint(value.size());
  text_.append(value);
  return *this;
}

}  // namespace nspjax::xrt_emulator
