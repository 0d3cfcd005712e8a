"""What docs/extending.md asks for to store tiles in one more type: floats of 8 bits (e5m2, the
upper byte of a half), by file."""

from __future__ import annotations

from pathlib import Path

ENUMERATOR = ("kInt8, kInt4 };", "kInt8, kInt4, kF8 };")
ROW = '    {DType::kF8, "f8", "float8_e5m2", 8, false, false},\n'
LAST_ROW = '    {DType::kInt4, "int4", "int4", 4, true, false},\n'

ELEMENT = """
template <>
struct Element<DType::kF8> {
  static float decode(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits << 8)); }
  static uint32_t encode(float x) {
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7eu;   // NaN
    if (magnitude >= 0x47700000u) return sign | 0x7cu;  // 61440 and above
    if (magnitude < 0x38800000u) {  // subnormal: float's own rounding does it, at 2^-16
      const float shifted = std::bit_cast<float>(magnitude) + 128.0f;
      return sign | (std::bit_cast<uint32_t>(shifted) - 0x43000000u);
    }
    const uint32_t rounded = magnitude + 0xfffffu + (magnitude >> 21 & 1u);
    return sign | ((rounded - 0x38000000u) >> 21);
  }
};
"""

VECTORS = """
template <class Simd>
struct FloatElements<Simd, DType::kF8> {
  static constexpr int kPerWord = 4;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    const auto low = Simd::template left_16<8>(words), high = Simd::masked(words, 0xff00ff00u);
    to[0] = Simd::lower_f16(low);
    to[1] = Simd::upper_f16(low);
    to[2] = Simd::lower_f16(high);
    to[3] = Simd::upper_f16(high);
  }
};
"""

CARD_DECODES = """inline Part decode_f8(const Beat& words, int part) {
  Part to;
  for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
    const std::uint32_t halves = words[lane] >> (part * 8) << 8;
    to.element[0][lane] = f16_to_float(halves & 0xff00u);
    to.element[1][lane] = f16_to_float(halves >> 16 & 0xff00u);
  }
  return to;
}

"""
DECODE = "inline Part decode(StoredType type,"
IN_A_FILE = "}  // namespace nspjax\n"

EDITS: dict[str, list[tuple[str, str]]] = {
    "csrc/format/dtype.h": [ENUMERATOR, (LAST_ROW, LAST_ROW + ROW)],
    "csrc/format/numbers.h": [(IN_A_FILE, ELEMENT.lstrip("\n") + "\n" + IN_A_FILE)],
    "csrc/attention/elements.h": [(IN_A_FILE, VECTORS.lstrip("\n") + "\n" + IN_A_FILE)],
    "hls_kernels/attention/interface.h": [
        ENUMERATOR,
        ("kStoredTypeCount = 5;", "kStoredTypeCount = 6;"),
        ("case kF16:\n      return false;", "case kF16:\n    case kF8:\n      return false;"),
        ("case kInt8:\n      return 4;", "case kInt8:\n    case kF8:\n      return 4;"),
    ],
    "hls_kernels/attention/elements.h": [
        (DECODE, CARD_DECODES + DECODE),
        ("    case kInt8:\n    case kInt4:", "    case kF8:\n      return decode_f8(words, part);\n"
                                             "    case kInt8:\n    case kInt4:"),
    ],
    "csrc/device/card_run.cc": [
        ("      return kInt4;\n", "      return kInt4;\n    case DType::kF8:\n      return kF8;\n")
    ],
    "tests/engine/test_kv_dtype_in_store.py": [
        ('"int8": 0.02, ', '"int8": 0.02, "f8": 0.5, ')
    ],
}  # fmt: skip
"""For each file, what stands there once, and what takes its place."""


def insert(root: Path, file: str) -> None:
    path = root / file
    text = path.read_text()
    for old, new in EDITS[file]:
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)
