// UTF-8 and character classes as the tokenizer needs them.
//
// Input is arbitrary bytes, the stages want characters. So text is brought into an internal form first: valid
// UTF-8, except that a byte b (>= 0x80) which belongs to no valid character is written as the lone surrogate
// U+DC00 + b. Surrogates cannot occur in valid UTF-8, hence the form is lossless, and every stage sees an
// ordinary "other" character that byte-level vocabularies turn back into the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace lombard::tokenization {

struct CodePoint {
  uint32_t value;
  uint32_t bytes;
};

// The character that starts at text[at]. REQUIRES: internal form, at < text.size() on a character border.
CodePoint ReadCodePoint(absl::string_view text, size_t at);
// The character that ends before text[end]. REQUIRES: internal form, 0 < end on a character border.
CodePoint ReadCodePointBefore(absl::string_view text, size_t end);
void AppendCodePoint(uint32_t code_point, std::string* out);

// What stands at text[at] in arbitrary bytes. Surrogates, overlong forms and values above U+10FFFF are
// invalid.
struct Utf8Unit {
  enum Kind {
    kValid,
    kInvalid,
    kIncomplete
  } kind;          // kIncomplete: the text ends inside a possibly valid character.
  uint32_t bytes;  // kInvalid: length of the maximal well-formed prefix, at least 1.
};
Utf8Unit ScanUtf8(absl::string_view text, size_t at);

bool IsValidUtf8(absl::string_view text);
// Arbitrary bytes to the internal form.
std::string EscapeInvalidUtf8(absl::string_view text);
inline bool IsEscapedByte(uint32_t code_point) { return code_point >= 0xDC80 && code_point <= 0xDCFF; }
inline uint8_t EscapedByte(uint32_t code_point) { return static_cast<uint8_t>(code_point - 0xDC00); }
// Internal form back to the bytes.
std::string UnescapeInvalidUtf8(absl::string_view text);

// Byte-level vocabularies write each byte as one printable character: itself where printable Latin-1, else
// U+0100 up.
uint32_t ByteToCharacter(uint8_t byte);
// The byte of such a character, or -1.
int CharacterToByte(uint32_t code_point);
// Appends `text` (internal form) with each byte as its character.
void AppendByteLevel(absl::string_view text, std::string* out);

// Unicode classes: White_Space; Nd, Nl, No; ASCII or P*; Alphabetic, M*, Nd, Pc, Join_Control; M*.
bool IsWhitespace(uint32_t code_point);
bool IsNumeric(uint32_t code_point);
bool IsPunctuation(uint32_t code_point);
bool IsWordCharacter(uint32_t code_point);
bool IsMark(uint32_t code_point);
// Full lower case of one character (U+0130 gives two).
void AppendLowercase(uint32_t code_point, std::string* out);

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };
std::string Normalize(absl::string_view text, NormalForm form);

}  // namespace lombard::tokenization
