#include "runtime/model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

uint64_t Edge(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

bool StandsAlone(absl::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !IsWordCharacter(ReadCodePointBefore(text, begin).value)) &&
         (end == text.size() || !IsWordCharacter(ReadCodePoint(text, end).value));
}

}  // namespace

void StringSet::Add(absl::string_view text, int32_t value) {
  if (text.empty()) return;
  starts_[static_cast<uint8_t>(text[0])] = true;
  int32_t node = 0;
  for (const char byte : text) {
    const auto [edge, inserted] = next_.try_emplace(Edge(node, byte), nodes_);
    if (inserted) ++nodes_;
    node = edge->second;
  }
  values_[node] = value;
}

std::optional<StringSet::Match> StringSet::LongestAt(absl::string_view text, size_t at) const {
  if (!starts_[static_cast<uint8_t>(text[at])]) return std::nullopt;
  std::optional<Match> longest;
  int32_t node = 0;
  for (size_t end = at; end < text.size();) {
    const auto edge = next_.find(Edge(node, text[end]));
    if (edge == next_.end()) break;
    node = edge->second;
    ++end;
    if (const auto value = values_.find(node); value != values_.end())
      longest = Match{end - at, value->second};
  }
  return longest;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    AddedToken& token = tokens_[i];
    const int32_t index = static_cast<int32_t>(i);
    token.spelling =
        token.normalized && normalizer != nullptr ? normalizer->Apply(token.content) : token.content;
    by_id_[token.id] = index;
    by_content_[token.content] = index;
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    const int32_t index = static_cast<int32_t>(i);
    if (by_content_[token.content] != index) continue;
    (token.normalized ? normalized_ : raw_).Add(token.spelling, index);
  }
}

void AddedTokens::Split(absl::string_view text, bool normalized, Part found) const {
  const StringSet& set = normalized ? normalized_ : raw_;
  size_t done = 0;  // Everything before has been reported.
  if (!set.empty()) {
    for (size_t at = 0; at < text.size();) {
      const std::optional<StringSet::Match> match = set.LongestAt(text, at);
      if (!match.has_value()) {
        ++at;
        continue;
      }
      const AddedToken& token = tokens_[match->value];
      size_t begin = at, end = at + match->bytes;
      at = end;
      if (token.single_word && !StandsAlone(text, begin, end)) continue;
      while (token.lstrip && begin > 0) {
        const CodePoint c = ReadCodePointBefore(text, begin);
        if (!IsWhitespace(c.value)) break;
        begin -= c.bytes;
      }
      if (token.lstrip) begin = std::max(begin, done);  // Whitespace that the token before has taken is gone.
      while (token.rstrip && end < text.size()) {
        const CodePoint c = ReadCodePoint(text, end);
        if (!IsWhitespace(c.value)) break;
        end += c.bytes;
      }
      if (done < begin) found(done, begin, nullptr);
      found(begin, end, &token);
      done = end;
    }
  }
  if (done < text.size()) found(done, text.size(), nullptr);
}

const AddedToken* AddedTokens::ById(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::ByContent(absl::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace lombard::tokenization
