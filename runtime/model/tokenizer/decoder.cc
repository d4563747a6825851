#include "runtime/model/tokenizer/decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

constexpr int64_t kStripMax = 1 << 20;
constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";
constexpr absl::string_view kLooksForReplacement = " of U+FFFD behind ByteFallback";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte that "<0xE4>" names, or -1.
int NamedByte(absl::string_view token) {
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') return -1;
  const int high = HexDigit(token[3]), low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string DecodeByteLevel(absl::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const CodePoint c = ReadCodePoint(token, at);
    const int byte = CharacterToByte(c.value);
    if (byte < 0) return std::string(token);  // An added token in plain text.
    bytes.push_back(static_cast<char>(byte));
    at += c.bytes;
  }
  return bytes;
}

std::string DecodeMetaspace(const DecoderStep& step, absl::string_view token, bool first) {
  const bool drop = step.drop_first && first;
  return step.pattern.Replace(token, drop ? "" : " ");
}

// How many of `text`'s characters from the start (or the end) are `content`, at most `limit`.
int64_t CountAtStart(absl::string_view text, absl::string_view content, int64_t limit) {
  int64_t count = 0;
  while (count < limit && absl::StartsWith(text, content)) {
    text.remove_prefix(content.size());
    ++count;
  }
  return count;
}
int64_t CountAtEnd(absl::string_view text, absl::string_view content, int64_t limit) {
  int64_t count = 0;
  while (count < limit && absl::EndsWith(text, content)) {
    text.remove_suffix(content.size());
    ++count;
  }
  return count;
}

std::string StripToken(const DecoderStep& step, absl::string_view token) {
  token.remove_prefix(CountAtStart(token, step.content, step.start) * step.content.size());
  token.remove_suffix(CountAtEnd(token, step.content, step.stop) * step.content.size());
  return std::string(token);
}

// The longest end of `text` that is a proper beginning of `word`.
size_t OverlapAtEnd(absl::string_view text, absl::string_view word) {
  for (size_t size = std::min(text.size(), word.size() - 1); size > 0; --size) {
    if (absl::EndsWith(text, word.substr(0, size))) return size;
  }
  return 0;
}

// Strip over one long string. state.first: still at the start. Held: what may turn out to be the end to
// strip.
std::string StripStream(const DecoderStep& step, std::string chunk, DecoderChain::State::Step* state) {
  chunk.insert(0, state->held);
  state->held.clear();
  absl::string_view text = chunk;
  if (state->first) {
    const int64_t count = CountAtStart(text, step.content, step.start - state->stripped);
    text.remove_prefix(count * step.content.size());
    state->stripped += count;
    if (state->stripped == step.start) {
      state->first = false;
    } else if (!text.empty() && !absl::StartsWith(step.content, text)) {
      state->first = false;
    } else {
      state->held = std::string(text);  // Nothing, or part of one more character to strip.
      return "";
    }
  }
  size_t keep = CountAtEnd(text, step.content, step.stop) * step.content.size();
  if (keep == 0 && step.stop > 0) keep = OverlapAtEnd(text, step.content);
  state->held = std::string(text.substr(text.size() - keep));
  return std::string(text.substr(0, text.size() - keep));
}

// Replace over one long string. Held: what may be the beginning of a match.
std::string ReplaceStream(const DecoderStep& step, std::string chunk, DecoderChain::State::Step* state) {
  const std::string& pattern = *step.pattern.literal();
  chunk.insert(0, state->held);
  std::string out;
  size_t from = 0;
  step.pattern.ForEachMatch(chunk, [&](size_t begin, size_t end) {
    out.append(chunk, from, begin - from);
    out += step.content;
    from = end;
  });
  const absl::string_view rest = absl::string_view(chunk).substr(from);
  const size_t keep = pattern.empty() ? 0 : OverlapAtEnd(rest, pattern);
  out.append(rest.data(), rest.size() - keep);
  state->held = std::string(rest.substr(rest.size() - keep));
  return out;
}

std::string RunStep(const DecoderStep& step, std::string chunk, DecoderChain::State::Step* state) {
  switch (step.kind) {
    case DecoderStep::Kind::kReplace:
      return step.fused ? ReplaceStream(step, std::move(chunk), state)
                        : step.pattern.Replace(chunk, step.content);
    case DecoderStep::Kind::kByteFallback: {
      const int byte = NamedByte(chunk);
      return byte < 0 ? chunk : std::string(1, static_cast<char>(byte));
    }
    case DecoderStep::Kind::kStrip:
      return step.fused ? StripStream(step, std::move(chunk), state) : StripToken(step, chunk);
    case DecoderStep::Kind::kMetaspace:
      return DecodeMetaspace(step, chunk, std::exchange(state->first, false));
    case DecoderStep::Kind::kByteLevel:
      return DecodeByteLevel(chunk);
  }
  return chunk;
}

std::string FinishStep(const DecoderStep& step, DecoderChain::State::Step* state) {
  std::string held = std::exchange(state->held, std::string());
  if (step.kind != DecoderStep::Kind::kStrip) return held;
  // Unless it is still at the start, all of it is the end to strip, or an incomplete character that is none.
  const int64_t count = CountAtEnd(held, step.content, step.stop);
  held.resize(held.size() - count * step.content.size());
  return held;
}

}  // namespace

absl::StatusOr<DecoderChain> DecoderChain::Parse(const JsonField& json) {
  DecoderChain chain;
  chain.join_with_spaces_ = false;
  RETURN_IF_ERROR(chain.Append(json));
  return chain;
}

absl::Status DecoderChain::Append(const JsonField& json) {
  ASSIGN_OR_RETURN(const absl::string_view type, json.GetString("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const JsonField list, json.Get("decoders"));
    ASSIGN_OR_RETURN(const std::vector<JsonField> items, list.AsArray());
    for (const JsonField& item : items) RETURN_IF_ERROR(Append(item));
    return absl::OkStatus();
  }
  if (type == "Fuse") {
    fused_ = true;
    return absl::OkStatus();
  }
  const auto unsupported = [&](absl::string_view form) {
    return absl::UnimplementedError(
        json.Error(absl::StrCat("decoder ", type, form, " is not supported")).message());
  };
  const auto unsupported_when_fused = [&]() { return unsupported(" of this form behind Fuse"); };
  if (has_byte_fallback_ && !fused_) return unsupported(" behind ByteFallback, with no Fuse between them,");
  const auto sees_other_bytes = [&](absl::string_view wanted) {
    return has_byte_fallback_ && absl::StrContains(wanted, kReplacementCharacter);
  };
  DecoderStep step{.fused = fused_};
  if (type == "Replace") {
    step.kind = DecoderStep::Kind::kReplace;
    ASSIGN_OR_RETURN(const JsonField pattern, json.Get("pattern"));
    ASSIGN_OR_RETURN(step.pattern, Pattern::Parse(pattern));
    ASSIGN_OR_RETURN(const absl::string_view content, json.GetString("content"));
    step.content = std::string(content);
    if (fused_ && step.pattern.literal() == nullptr) return unsupported_when_fused();
    if (fused_ && sees_other_bytes(*step.pattern.literal())) return unsupported(kLooksForReplacement);
  } else if (type == "ByteFallback") {
    if (fused_) return unsupported_when_fused();
    step.kind = DecoderStep::Kind::kByteFallback;
    has_byte_fallback_ = true;
  } else if (type == "Strip") {
    step.kind = DecoderStep::Kind::kStrip;
    ASSIGN_OR_RETURN(const uint32_t content, json.GetCharacter("content"));
    AppendCodePoint(content, &step.content);
    if (sees_other_bytes(step.content)) return unsupported(kLooksForReplacement);
    ASSIGN_OR_RETURN(const JsonField start, json.Get("start"));
    ASSIGN_OR_RETURN(step.start, start.AsInt(0, kStripMax));
    ASSIGN_OR_RETURN(const JsonField stop, json.Get("stop"));
    ASSIGN_OR_RETURN(step.stop, stop.AsInt(0, kStripMax));
  } else if (type == "Metaspace") {
    if (fused_) return unsupported_when_fused();
    step.kind = DecoderStep::Kind::kMetaspace;
    ASSIGN_OR_RETURN(const uint32_t replacement, json.GetCharacter("replacement", 0x2581));
    AppendCodePoint(replacement, &step.content);
    step.pattern = Pattern::Literal(step.content);
    ASSIGN_OR_RETURN(step.drop_first, json.GetBool("add_prefix_space", true));
    ASSIGN_OR_RETURN(const std::optional<JsonField> scheme, json.Find("prepend_scheme"));
    if (scheme.has_value()) {
      ASSIGN_OR_RETURN(const absl::string_view name, scheme->AsString());
      step.drop_first = name != "never";
    }
  } else if (type == "ByteLevel") {
    if (fused_) return unsupported_when_fused();
    step.kind = DecoderStep::Kind::kByteLevel;
    fused_ = true;
  } else {
    return unsupported("");
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

std::string DecoderChain::Run(size_t from, std::string chunk, State* state) const {
  for (size_t i = from; i < steps_.size(); ++i)
    chunk = RunStep(steps_[i], std::move(chunk), &state->steps[i]);
  return chunk;
}

std::string DecoderChain::Push(absl::string_view token, State* state) const {
  state->steps.resize(steps_.size());
  const bool first = std::exchange(state->first, false);
  if (join_with_spaces_) return absl::StrCat(first ? "" : " ", token);
  return Run(0, std::string(token), state);
}

std::string DecoderChain::Finish(State* state) const {
  state->steps.resize(steps_.size());
  std::string out;
  for (size_t i = 0; i < steps_.size(); ++i) {
    // What a step still holds goes through the steps behind it before those give up what they hold.
    const std::string held = FinishStep(steps_[i], &state->steps[i]);
    if (!held.empty()) out += Run(i + 1, held, state);
  }
  return out;
}

std::string Utf8Repair::Push(absl::string_view bytes) {
  std::string text = std::exchange(held_, std::string());
  text.append(bytes.data(), bytes.size());
  if (IsValidUtf8(text)) return text;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = ScanUtf8(text, at);
    if (unit.kind == Utf8Unit::kIncomplete) {
      held_ = text.substr(at);
      break;
    }
    if (unit.kind == Utf8Unit::kValid) {
      out.append(text, at, unit.bytes);
    } else {
      for (uint32_t i = 0; i < (each_byte_ ? unit.bytes : 1); ++i)
        absl::StrAppend(&out, kReplacementCharacter);
    }
    at += unit.bytes;
  }
  return out;
}

std::string Utf8Repair::Finish() {
  std::string out;
  const size_t count = held_.empty() ? 0 : each_byte_ ? held_.size() : 1;
  for (size_t i = 0; i < count; ++i) absl::StrAppend(&out, kReplacementCharacter);
  held_.clear();
  return out;
}

}  // namespace lombard::tokenization
