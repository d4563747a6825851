#include "runtime/model/tokenizer/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/pattern.h"
#include "runtime/model/tokenizer/split.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

// GPT-2's pattern, which ByteLevel implies.
constexpr absl::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  void Apply(PieceList* list) const override {
    for (const auto& step : steps_) step->Apply(list);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void Apply(PieceList* list) const override {
    const auto find = [this](absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) {
      pattern_.ForEachMatch(text, found);
    };
    SplitPieces(behavior_, invert_, find, list);
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Splits where a class of characters begins or ends; each character of the class is a delimiter by itself.
class SplitByClass : public PreTokenizer {
 public:
  using Class = bool (*)(uint32_t code_point);
  SplitByClass(Class in_class, SplitBehavior behavior) : in_class_(in_class), behavior_(behavior) {}
  void Apply(PieceList* list) const override {
    const auto find = [this](absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) {
      for (size_t at = 0; at < text.size();) {
        const CodePoint c = ReadCodePoint(text, at);
        if (in_class_(c.value)) found(at, at + c.bytes);
        at += c.bytes;
      }
    };
    SplitPieces(behavior_, /*invert=*/false, find, list);
  }

 private:
  Class in_class_;
  SplitBehavior behavior_;
};

// Runs of word characters and runs of other visible characters; whitespace is dropped.
class Whitespace : public PreTokenizer {
 public:
  void Apply(PieceList* list) const override {
    const auto kind = [](uint32_t c) { return IsWordCharacter(c) ? 1 : IsWhitespace(c) ? 0 : 2; };
    const auto find = [&kind](absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) {
      size_t begin = 0;
      int current = 0;
      for (size_t at = 0; at < text.size();) {
        const CodePoint c = ReadCodePoint(text, at);
        if (const int next = kind(c.value); next != current) {
          if (current != 0) found(begin, at);
          begin = at;
          current = next;
        }
        at += c.bytes;
      }
      if (current != 0) found(begin, text.size());
    };
    SplitPieces(SplitBehavior::kRemoved, /*invert=*/true, find, list);
  }
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> regex)
      : add_prefix_space_(add_prefix_space), regex_(std::move(regex)) {}

  void Apply(PieceList* list) const override {
    if (add_prefix_space_) AddPrefixSpace(list);
    if (regex_.has_value()) {
      const auto find = [this](absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) {
        regex_->ForEachMatch(text, found);
      };
      SplitPieces(SplitBehavior::kIsolated, /*invert=*/false, find, list);
    }
    std::string mapped;
    mapped.reserve(list->text.size() + list->text.size() / 2);
    for (PieceList::Piece& piece : list->pieces) {
      const size_t begin = mapped.size();
      AppendByteLevel(list->View(piece), &mapped);
      piece.begin = begin;
      piece.end = mapped.size();
    }
    list->text = std::move(mapped);
  }

 private:
  static void AddPrefixSpace(PieceList* list) {
    std::string text;
    text.reserve(list->text.size() + list->pieces.size());
    for (PieceList::Piece& piece : list->pieces) {
      const absl::string_view view = list->View(piece);
      const size_t begin = text.size();
      if (view.front() != ' ') text.push_back(' ');
      text.append(view.data(), view.size());
      piece.begin = begin;
      piece.end = text.size();
    }
    list->text = std::move(text);
  }

  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend : uint8_t { kAlways, kFirst, kNever };
  Metaspace(absl::string_view replacement, Prepend prepend, bool split)
      : replacement_(replacement),
        pattern_(Pattern::Literal(replacement)),
        prepend_(prepend),
        split_(split) {}

  void Apply(PieceList* list) const override {
    std::string text;
    text.reserve(list->text.size() + list->text.size() / 2);
    for (PieceList::Piece& piece : list->pieces) {
      const absl::string_view view = list->View(piece);
      const size_t begin = text.size();
      const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
      const bool has = view.front() == ' ' || view.substr(0, replacement_.size()) == replacement_;
      if (wanted && !has) text += replacement_;
      for (const char c : view) {
        if (c == ' ') {
          text += replacement_;
        } else {
          text.push_back(c);
        }
      }
      piece.begin = begin;
      piece.end = text.size();
    }
    list->text = std::move(text);
    if (!split_) return;
    const auto find = [this](absl::string_view view, absl::FunctionRef<void(size_t, size_t)> found) {
      pattern_.ForEachMatch(view, found);
    };
    SplitPieces(SplitBehavior::kMergedWithNext, /*invert=*/false, find, list);
  }

 private:
  std::string replacement_;
  Pattern pattern_;
  Prepend prepend_;
  bool split_;
};

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseMetaspace(const JsonField& json) {
  ASSIGN_OR_RETURN(const uint32_t replacement, json.GetCharacter("replacement", 0x2581));
  std::string replacement_text;
  AppendCodePoint(replacement, &replacement_text);
  ASSIGN_OR_RETURN(const bool split, json.GetBool("split", true));
  // Older files say add_prefix_space instead of prepend_scheme.
  ASSIGN_OR_RETURN(const bool add_prefix_space, json.GetBool("add_prefix_space", true));
  Metaspace::Prepend prepend = add_prefix_space ? Metaspace::Prepend::kAlways : Metaspace::Prepend::kNever;
  ASSIGN_OR_RETURN(const std::optional<JsonField> scheme, json.Find("prepend_scheme"));
  if (scheme.has_value()) {
    ASSIGN_OR_RETURN(const absl::string_view name, scheme->AsString());
    if (name == "always") {
      prepend = Metaspace::Prepend::kAlways;
    } else if (name == "first") {
      prepend = Metaspace::Prepend::kFirst;
    } else if (name == "never") {
      prepend = Metaspace::Prepend::kNever;
    } else {
      return scheme->Error(absl::StrCat("expected always, first or never, found \"", name, "\""));
    }
  }
  return std::make_unique<Metaspace>(replacement_text, prepend, split);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const JsonField& json) {
  ASSIGN_OR_RETURN(const absl::string_view type, json.GetString("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const JsonField list, json.Get("pretokenizers"));
    ASSIGN_OR_RETURN(const std::vector<JsonField> items, list.AsArray());
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    for (const JsonField& item : items) {
      ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> step, ParsePreTokenizer(item));
      steps.push_back(std::move(step));
    }
    return std::make_unique<PreTokenizerSequence>(std::move(steps));
  }
  if (type == "Split") {
    ASSIGN_OR_RETURN(const JsonField pattern_json, json.Get("pattern"));
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(pattern_json));
    ASSIGN_OR_RETURN(const JsonField behavior_json, json.Get("behavior"));
    ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseSplitBehavior(behavior_json));
    ASSIGN_OR_RETURN(const bool invert, json.GetBool("invert", false));
    return std::make_unique<Split>(std::move(pattern), behavior, invert);
  }
  if (type == "ByteLevel") {
    ASSIGN_OR_RETURN(const bool add_prefix_space, json.GetBool("add_prefix_space", true));
    ASSIGN_OR_RETURN(const bool use_regex, json.GetBool("use_regex", true));
    std::optional<Regex> regex;
    if (use_regex) {
      auto compiled = Regex::Compile(kByteLevelPattern);
      CHECK_OK(compiled.status());
      regex = *std::move(compiled);
    }
    return std::make_unique<ByteLevel>(add_prefix_space, std::move(regex));
  }
  if (type == "Metaspace") return ParseMetaspace(json);
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, json.GetBool("individual_digits", false));
    return std::make_unique<SplitByClass>(IsNumeric,
                                          individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    SplitBehavior behavior = SplitBehavior::kIsolated;
    ASSIGN_OR_RETURN(const std::optional<JsonField> behavior_json, json.Find("behavior"));
    if (behavior_json.has_value()) {
      ASSIGN_OR_RETURN(behavior, ParseSplitBehavior(*behavior_json));
    }
    return std::make_unique<SplitByClass>(IsPunctuation, behavior);
  }
  if (type == "WhitespaceSplit") return std::make_unique<SplitByClass>(IsWhitespace, SplitBehavior::kRemoved);
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "CharDelimiterSplit") {
    ASSIGN_OR_RETURN(const uint32_t delimiter, json.GetCharacter("delimiter"));
    std::string text;
    AppendCodePoint(delimiter, &text);
    return std::make_unique<Split>(Pattern::Literal(text), SplitBehavior::kRemoved, /*invert=*/false);
  }
  return absl::UnimplementedError(
      json.Error(absl::StrCat("pre-tokenizer ", type, " is not supported")).message());
}

}  // namespace lombard::tokenization
