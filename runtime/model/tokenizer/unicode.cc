#include "runtime/model/tokenizer/unicode.h"

#include <simdjson.h>
#include <utf8proc.h>

#include <array>
#include <cstdlib>

#include "base/check.h"

namespace lombard::tokenization {
namespace {

uint8_t At(absl::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }

utf8proc_category_t Category(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

// Characters that stand for bytes: the printable ones for themselves, the others numbered from U+0100.
struct ByteTable {
  std::array<uint16_t, 256> to_character;
  std::array<int16_t, 512> to_byte;
};

constexpr ByteTable MakeByteTable() {
  ByteTable table{};
  for (auto& byte : table.to_byte) byte = -1;
  uint16_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    const uint16_t character = printable ? static_cast<uint16_t>(b) : next++;
    table.to_character[b] = character;
    table.to_byte[character] = static_cast<int16_t>(b);
  }
  return table;
}
constexpr ByteTable kByteTable = MakeByteTable();

// One valid stretch through utf8proc.
void AppendNormalized(absl::string_view text, int options, std::string* out) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                             static_cast<utf8proc_option_t>(options));
  CHECK_GE(size, 0);  // The text is valid UTF-8, so only memory can fail.
  out->append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  std::free(mapped);
}

}  // namespace

CodePoint ReadCodePoint(absl::string_view text, size_t at) {
  const uint32_t a = At(text, at);
  if (a < 0x80) return {a, 1};
  const uint32_t b = At(text, at + 1) & 0x3F;
  if (a < 0xE0) return {(a & 0x1F) << 6 | b, 2};
  const uint32_t c = At(text, at + 2) & 0x3F;
  if (a < 0xF0) return {(a & 0x0F) << 12 | b << 6 | c, 3};
  return {(a & 0x07) << 18 | b << 12 | c << 6 | (At(text, at + 3) & 0x3Fu), 4};
}

CodePoint ReadCodePointBefore(absl::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (At(text, at) & 0xC0) == 0x80) --at;
  return ReadCodePoint(text, at);
}

void AppendCodePoint(uint32_t c, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

Utf8Unit ScanUtf8(absl::string_view text, size_t at) {
  const uint8_t lead = At(text, at);
  if (lead < 0x80) return {Utf8Unit::kValid, 1};
  // Only the second byte has bounds beyond 80..BF: they exclude overlong forms, surrogates and values above
  // U+10FFFF.
  uint32_t length = 0;
  uint8_t low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Unit::kInvalid, 1};
  }
  for (uint32_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (at + i == text.size()) return {Utf8Unit::kIncomplete, i};
    if (At(text, at + i) < low || At(text, at + i) > high) return {Utf8Unit::kInvalid, i};
  }
  return {Utf8Unit::kValid, length};
}

bool IsValidUtf8(absl::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::string EscapeInvalidUtf8(absl::string_view text) {
  if (IsValidUtf8(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = ScanUtf8(text, at);
    if (unit.kind == Utf8Unit::kValid) {
      out.append(text.data() + at, unit.bytes);
    } else {
      for (uint32_t i = 0; i < unit.bytes; ++i) AppendCodePoint(0xDC00 + At(text, at + i), &out);
    }
    at += unit.bytes;
  }
  return out;
}

std::string UnescapeInvalidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = ReadCodePoint(text, at);
    if (IsEscapedByte(c.value)) {
      out.push_back(static_cast<char>(EscapedByte(c.value)));
    } else {
      out.append(text.data() + at, c.bytes);
    }
    at += c.bytes;
  }
  return out;
}

uint32_t ByteToCharacter(uint8_t byte) { return kByteTable.to_character[byte]; }

int CharacterToByte(uint32_t code_point) {
  return code_point < kByteTable.to_byte.size() ? kByteTable.to_byte[code_point] : -1;
}

void AppendByteLevel(absl::string_view text, std::string* out) {
  for (size_t at = 0; at < text.size();) {
    const uint8_t byte = At(text, at);
    if (byte == 0xED) {  // The lead byte of all surrogates, and of some Hangul.
      const CodePoint c = ReadCodePoint(text, at);
      if (IsEscapedByte(c.value)) {
        AppendCodePoint(ByteToCharacter(EscapedByte(c.value)), out);
        at += c.bytes;
        continue;
      }
    }
    AppendCodePoint(ByteToCharacter(byte), out);
    ++at;
  }
}

bool IsWhitespace(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsNumeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsPunctuation(uint32_t c) {
  if (c < 0x80) return c > 0x20 && c < 0x7F && !IsNumeric(c) && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsMark(uint32_t c) {
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

bool IsWordCharacter(uint32_t c) {
  if (c < 0x80) return c == '_' || IsNumeric(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // Alphabetic symbols (circled, squared letters) and the joiners.
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D;
  }
}

void AppendLowercase(uint32_t c, std::string* out) {
  if (c == 0x130) {  // The only character whose lower case has two: i and a combining dot.
    out->push_back('i');
    AppendCodePoint(0x307, out);
    return;
  }
  AppendCodePoint(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

std::string Normalize(absl::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  // Below these bounds a character never changes, nor do two of them compose.
  const uint32_t stable_below = form == NormalForm::kNfc ? 0x300 : 0x80;

  std::string out;
  out.reserve(text.size() + 16);
  size_t begin =
      0;  // Of the stretch not yet written; escaped bytes interrupt it, as nothing composes with them.
  bool stable = true;
  const auto flush = [&](size_t end) {
    const absl::string_view stretch = text.substr(begin, end - begin);
    if (stable) {
      out.append(stretch.data(), stretch.size());
    } else {
      AppendNormalized(stretch, options, &out);
    }
    stable = true;
  };
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = ReadCodePoint(text, at);
    if (IsEscapedByte(c.value)) {
      flush(at);
      out.append(text.data() + at, c.bytes);
      begin = at + c.bytes;
    } else if (c.value >= stable_below) {
      stable = false;
    }
    at += c.bytes;
  }
  flush(text.size());
  return out;
}

}  // namespace lombard::tokenization
