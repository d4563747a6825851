// Any bytes as a tokenizer.json: refused, or a tokenizer whose every call ends and whose stream equals its
// decoded text. The bytes are also the text that it encodes.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "runtime/model/tokenizer/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = lombard::Tokenizer::Parse(input, "fuzz");
  if (!tokenizer.ok()) return 0;
  const std::vector<int32_t> ids = (*tokenizer)->Encode(input.substr(0, 256), true);
  for (const int32_t id : ids) CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
  for (const bool skip : {false, true}) {
    const std::string text = (*tokenizer)->Decode(ids, skip);
    CHECK(lombard::tokenization::IsValidUtf8(text));
    lombard::StreamDecoder stream(**tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.Push(id);
    CHECK(streamed + stream.Finish() == text);
  }
  return 0;
}
