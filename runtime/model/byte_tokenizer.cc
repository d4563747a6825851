#include "runtime/model/byte_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "runtime/model/json_text.h"

namespace lombard {
namespace {

constexpr const char* kBegin = "<|begin|>";
constexpr const char* kEnd = "<|end|>";

// Byte-level BPE writes each byte as one printable character: those that are printable in Latin-1 as
// themselves, the others, in order, as U+0100 and up.
std::string Visible(int byte, int* others) {
  const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const int code = printable ? byte : 0x100 + (*others)++;
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

std::string AddedToken(int id, const char* content) {
  return absl::StrCat("{\"id\": ", id, ", \"content\": ", JsonQuoted(content),
                      ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": "
                      "false, \"special\": true}");
}

}  // namespace

ByteTokenizerFiles ByteTokenizer(const ModelPreset& preset) {
  const bool begins = preset.bos_id >= 0;
  std::string vocab, added = AddedToken(preset.eos_id, kEnd);
  int id = 0, others = 0;
  for (int byte = 0; byte < 256; ++byte, ++id) {
    while (id == preset.bos_id || id == preset.eos_id) ++id;
    absl::StrAppend(&vocab, byte ? ", " : "", JsonQuoted(Visible(byte, &others)), ": ", id);
  }
  if (begins) added = absl::StrCat(AddedToken(preset.bos_id, kBegin), ", ", added);
  const std::string post_processor =
      begins
          ? absl::StrCat(
                R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": ")", kBegin,
                R"(", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"SpecialToken": {"id": ")",
                kBegin,
                R"(", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], )",
                R"("special_tokens": {")", kBegin, R"(": {"id": ")", kBegin, R"(", "ids": [)", preset.bos_id,
                R"(], "tokens": [")", kBegin, R"("]}}})")
          : "null";
  return {
      .tokenizer_json = absl::StrCat(
          "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null,\n \"added_tokens\": [", added,
          "],\n \"normalizer\": null,\n"
          " \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": "
          "true, \"use_regex\": true},\n"
          " \"post_processor\": ",
          post_processor,
          ",\n \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
          "\"use_regex\": true},\n"
          " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
          "\"continuing_subword_prefix\": null, "
          "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": "
          "false,\n  \"vocab\": {",
          vocab, "},\n  \"merges\": []}}\n"),
      .tokenizer_config_json = absl::StrCat(
          "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"add_bos_token\": ", begins ? "true" : "false",
          ", \"bos_token\": ", begins ? JsonQuoted(kBegin) : "null", ", \"eos_token\": ", JsonQuoted(kEnd),
          ", \"clean_up_tokenization_spaces\": false, \"model_max_length\": ", preset.max_position_embeddings,
          "}\n"),
  };
}

}  // namespace lombard
