#include "runtime/model/tokenizer/normalizer.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/model/tokenizer/json_field.h"
#include "runtime/model/tokenizer/pattern.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  std::string Apply(std::string text) const override {
    for (const auto& step : steps_) text = step->Apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(absl::string_view prefix) : prefix_(prefix) {}
  std::string Apply(std::string text) const override { return text.empty() ? text : prefix_ + text; }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, absl::string_view content) : pattern_(std::move(pattern)), content_(content) {}
  std::string Apply(std::string text) const override { return pattern_.Replace(text, content_); }

 private:
  Pattern pattern_;
  std::string content_;
};

class ToNormalForm : public Normalizer {
 public:
  explicit ToNormalForm(NormalForm form) : form_(form) {}
  std::string Apply(std::string text) const override { return Normalize(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = ReadCodePoint(text, at);
      AppendLowercase(c.value, &out);
      at += c.bytes;
    }
    return out;
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  std::string Apply(std::string text) const override {
    size_t begin = 0, end = text.size();
    while (left_ && begin < end) {
      const CodePoint c = ReadCodePoint(text, begin);
      if (!IsWhitespace(c.value)) break;
      begin += c.bytes;
    }
    while (right_ && end > begin) {
      const CodePoint c = ReadCodePointBefore(text, end);
      if (!IsWhitespace(c.value)) break;
      end -= c.bytes;
    }
    return text.substr(begin, end - begin);
  }

 private:
  bool left_, right_;
};

class StripAccents : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = ReadCodePoint(text, at);
      if (!IsMark(c.value)) out.append(text, at, c.bytes);
      at += c.bytes;
    }
    return out;
  }
};

class ByteLevel : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size() * 2);
    AppendByteLevel(text, &out);
    return out;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const JsonField& json) {
  ASSIGN_OR_RETURN(const absl::string_view type, json.GetString("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const JsonField list, json.Get("normalizers"));
    ASSIGN_OR_RETURN(const std::vector<JsonField> items, list.AsArray());
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const JsonField& item : items) {
      ASSIGN_OR_RETURN(std::unique_ptr<Normalizer> step, ParseNormalizer(item));
      steps.push_back(std::move(step));
    }
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  if (type == "Prepend") {
    ASSIGN_OR_RETURN(const absl::string_view prefix, json.GetString("prepend"));
    return std::make_unique<Prepend>(prefix);
  }
  if (type == "Replace") {
    ASSIGN_OR_RETURN(const JsonField pattern_json, json.Get("pattern"));
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(pattern_json));
    ASSIGN_OR_RETURN(const absl::string_view content, json.GetString("content"));
    return std::make_unique<Replace>(std::move(pattern), content);
  }
  if (type == "NFC") return std::make_unique<ToNormalForm>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<ToNormalForm>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<ToNormalForm>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<ToNormalForm>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, json.GetBool("strip_left", true));
    ASSIGN_OR_RETURN(const bool right, json.GetBool("strip_right", true));
    return std::make_unique<Strip>(left, right);
  }
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  return absl::UnimplementedError(
      json.Error(absl::StrCat("normalizer ", type, " is not supported")).message());
}

}  // namespace lombard::tokenization
