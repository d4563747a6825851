// Post-processors: the ids (BOS, EOS) that go before and behind an encoded text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace lombard::tokenization {

class JsonField;

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  // Wraps what is there in what the file's post-processor adds. TemplateProcessing (its form for single
  // texts), ByteLevel (no ids), Sequence; others kUnimplemented.
  absl::Status Add(const JsonField& json);
};

}  // namespace lombard::tokenization
