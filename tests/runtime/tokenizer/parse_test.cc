// Goal: what is wrong or unsupported in a file is named, with file and field; tokenizer_config.json is
// heeded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/model/tokenizer/tokenizer.h"

namespace lombard {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

json SmallDocument() {
  return json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}, {"id": 5, "content": "</s>", "special": true}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "?": 3}, "merges": ["a b"], "unk_token": "?"}})");
}

absl::Status ParseStatus(const json& document) {
  return Tokenizer::Parse(document.dump(), "t.json").status();
}

// A change to the document and what the message must name.
struct Case {
  const char* pointer;
  json value;
  absl::StatusCode code;
  std::vector<std::string> named;
};

TEST(TokenizerErrors, NameFileAndField) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto unsupported = absl::StatusCode::kUnimplemented;
  const Case cases[] = {
      {"", json::array(), invalid, {"t.json", "object", "array"}},
      {"/model", nullptr, invalid, {"\"model\" is missing"}},
      {"/model", 5, invalid, {"model", "expected an object, found a number"}},
      {"/model/type", "WordPiece", unsupported, {"model.type", "WordPiece"}},
      {"/model/type", "Unigram", unsupported, {"model.type", "Unigram"}},
      {"/model/vocab", json::array(), invalid, {"model.vocab", "an array"}},
      {"/model/vocab/a", -1, invalid, {"model.vocab", "\"a\""}},
      {"/model/vocab/a", 1 << 24, invalid, {"model.vocab", "\"a\"", "16777215"}},
      {"/model/vocab/a", "x", invalid, {"model.vocab", "\"a\""}},
      {"/model/merges", nullptr, invalid, {"\"merges\" is missing"}},
      {"/model/merges/0", "ab", invalid, {"model.merges", "merge 0"}},
      {"/model/merges/0", "a b c", invalid, {"model.merges", "merge 0"}},
      {"/model/merges/0", json::array({"a"}), invalid, {"model.merges", "merge 0"}},
      {"/model/merges/0", "b a", invalid, {"merge 0", "\"ba\" is not in the vocabulary"}},
      {"/model/unk_token", "<unk>", invalid, {"model.unk_token", "<unk>"}},
      {"/model/dropout", 0.1, unsupported, {"model.dropout"}},
      {"/model/continuing_subword_prefix", "##", unsupported, {"continuing_subword_prefix", "##"}},
      {"/model/end_of_word_suffix", "</w>", unsupported, {"end_of_word_suffix", "</w>"}},
      {"/model/byte_fallback", "yes", invalid, {"model.byte_fallback", "boolean"}},
      {"/added_tokens/1/id", "x", invalid, {"added_tokens[1].id"}},
      {"/added_tokens/1/content", nullptr, invalid, {"added_tokens[1]", "content"}},
      {"/normalizer", {{"type", "Precompiled"}}, unsupported, {"normalizer", "Precompiled"}},
      {"/normalizer", {{"type", "BertNormalizer"}}, unsupported, {"BertNormalizer"}},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}},
       invalid,
       {"normalizer.pattern.Regex", "\"(\""}},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", "[a[b]]"}}}, {"content", ""}},
       invalid,
       {"nested"}},
      {"/normalizer",
       {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}},
       unsupported,
       {"normalizer.normalizers[0]", "Nmt"}},
      {"/pre_tokenizer", {{"type", "UnicodeScripts"}}, unsupported, {"pre_tokenizer", "UnicodeScripts"}},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Odd"}},
       invalid,
       {"pre_tokenizer.behavior", "Odd"}},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "ab"}},
       invalid,
       {"pre_tokenizer.replacement", "ab"}},
      {"/post_processor", {{"type", "BertProcessing"}}, unsupported, {"post_processor", "BertProcessing"}},
      {"/post_processor",
       {{"type", "TemplateProcessing"}, {"single", json::array()}},
       invalid,
       {"post_processor.single"}},
      {"/decoder", {{"type", "WordPiece"}}, unsupported, {"decoder", "WordPiece"}},
      {"/decoder",
       {{"type", "Sequence"}, {"decoders", {{{"type", "CTC"}}}}},
       unsupported,
       {"decoder.decoders[0]", "CTC"}},
  };
  ASSERT_TRUE(ParseStatus(SmallDocument()).ok()) << ParseStatus(SmallDocument());
  for (const Case& c : cases) {
    json document = SmallDocument();
    document[json::json_pointer(c.pointer)] = c.value;
    const absl::Status status = ParseStatus(document);
    EXPECT_EQ(status.code(), c.code) << c.pointer << " = " << c.value << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("t.json"));
    for (const std::string& name : c.named)
      EXPECT_THAT(std::string(status.message()), HasSubstr(name)) << c.pointer;
  }
}

// ByteFallback gives bytes on, one by one; the reference gives on whole characters, and U+FFFD for the rest.
TEST(TokenizerErrors, WhatStandsBehindByteFallbackMustNotMeetItsBytes) {
  const json bytes = {{"type", "ByteFallback"}}, fuse = {{"type", "Fuse"}},
             byte_level = {{"type", "ByteLevel"}};
  const json metaspace = {{"type", "Metaspace"}, {"replacement", "▁"}};
  const auto replace = [](const char* what) -> json {
    return {{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", " "}};
  };
  const auto strip = [](const char* what) -> json {
    return {{"type", "Strip"}, {"content", what}, {"start", 1}, {"stop", 0}};
  };
  const auto parse = [](const json& decoders) {
    json document = SmallDocument();
    document["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
    return ParseStatus(document);
  };
  for (const json& decoders :
       {json{replace("▁"), bytes, fuse}, json{replace("▁"), bytes, fuse, strip(" ")}, json{strip("▁"), bytes},
        json{metaspace, bytes}, json{bytes, fuse, replace("▁t")}, json{fuse, strip("\uFFFD")}}) {
    EXPECT_TRUE(parse(decoders).ok()) << decoders << parse(decoders);
  }
  struct Refused {
    json decoders;
    std::vector<std::string> named;
  };
  for (const Refused& refused :
       {Refused{{bytes, strip(" ")}, {"decoders[1]", "Strip behind ByteFallback"}},
        {{replace("▁"), bytes, replace("e")}, {"decoders[2]", "Replace behind ByteFallback"}},
        {{bytes, metaspace, fuse}, {"decoders[1]", "Metaspace behind ByteFallback"}},
        {{bytes, byte_level}, {"decoders[1]", "ByteLevel behind ByteFallback"}},
        {{bytes, bytes, fuse}, {"decoders[1]", "ByteFallback behind ByteFallback"}},
        {{{{"type", "Sequence"}, {"decoders", {bytes}}}, strip(" ")},
         {"decoders[1]", "Strip behind ByteFallback"}},
        {{bytes, fuse, strip("\uFFFD")}, {"decoders[2]", "Strip of U+FFFD behind ByteFallback"}},
        {{bytes, fuse, replace("a\uFFFD")}, {"decoders[2]", "Replace of U+FFFD behind ByteFallback"}}}) {
    const absl::Status status = parse(refused.decoders);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << refused.decoders << status;
    for (const std::string& name : refused.named)
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("t.json"), HasSubstr(name)));
  }
}

TEST(TokenizerErrors, BrokenJsonNamesTheFile) {
  for (const char* text : {"", "{", "{\"model\": \"\xFF\"}", "[[[[", "nul"}) {
    const absl::Status status = Tokenizer::Parse(text, "t.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("t.json: not valid JSON"));
  }
  EXPECT_EQ(Tokenizer::Load("/nowhere").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Tokenizer::Load("/nowhere").status().message()),
              HasSubstr("/nowhere/tokenizer.json"));
}

TEST(Tokenizer, TakesABareVocabularyOfBytesWithoutMerges) {
  json vocab = json::object();
  for (int byte = '!'; byte <= '~'; ++byte) vocab[std::string(1, static_cast<char>(byte))] = byte;
  const json document = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}},
                         {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                         {"decoder", {{"type", "ByteLevel"}}}};
  const auto tokenizer = Tokenizer::Parse(document.dump(), "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("Hi", true), ElementsAre('H', 'i'));
  EXPECT_EQ((*tokenizer)->vocab_size(), '~' + 1);
  EXPECT_EQ((*tokenizer)->TokenId("H"), 'H');
  EXPECT_EQ((*tokenizer)->TokenId("Hi"), std::nullopt);
}

class TokenizerConfig : public testing::Test {
 protected:
  std::vector<int32_t> EncodeWith(const json& config, const std::string& text) {
    tokenizer_ = Tokenizer::Parse(SmallDocument().dump(), "t.json", config.dump(), "c.json");
    EXPECT_TRUE(tokenizer_.ok()) << tokenizer_.status();
    return tokenizer_.ok() ? (*tokenizer_)->Encode(text, true) : std::vector<int32_t>();
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer_ = absl::UnknownError("not parsed");
};

TEST_F(TokenizerConfig, AddBosAndEosDecideWhereTheyAreGiven) {
  EXPECT_THAT(EncodeWith(json::object(), "ab"), ElementsAre(2));
  EXPECT_THAT(EncodeWith({{"add_bos_token", true}, {"bos_token", "<s>"}}, "ab"), ElementsAre(4, 2));
  EXPECT_THAT(EncodeWith({{"add_eos_token", true}, {"eos_token", {{"content", "</s>"}}}}, "ab"),
              ElementsAre(2, 5));
  EXPECT_THAT(EncodeWith({{"add_bos_token", false}, {"bos_token", nullptr}}, "ab"), ElementsAre(2));
  const absl::Status status = Tokenizer::Parse(SmallDocument().dump(), "t.json",
                                               R"({"add_bos_token": true, "bos_token": "<x>"})", "c.json")
                                  .status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("c.json: add_bos_token"), HasSubstr("bos_token")));
}

TEST_F(TokenizerConfig, AddBosDoesNotDoubleAndFalseRemovesWhatTheTemplateAdds) {
  json document = SmallDocument();
  document["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [4]}}})");
  for (const bool wanted : {true, false}) {
    const json config = {{"add_bos_token", wanted}, {"bos_token", "<s>"}};
    const auto tokenizer = Tokenizer::Parse(document.dump(), "t.json", config.dump(), "c.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->Encode("ab", true),
              wanted ? (std::vector<int32_t>{4, 2}) : (std::vector<int32_t>{2}));
    EXPECT_THAT((*tokenizer)->Encode("ab", false), ElementsAre(2));
  }
}

TEST_F(TokenizerConfig, AddedTokensDecoderAddsAndOverrides) {
  const json config = {{"added_tokens_decoder",
                        {{"9", {{"content", "<new>"}, {"special", true}}},
                         {"4", {{"content", "<s>"}, {"rstrip", true}, {"special", true}}}}}};
  EXPECT_THAT(EncodeWith(config, "a<new>b"), ElementsAre(0, 9, 1));
  EXPECT_EQ((*tokenizer_)->vocab_size(), 10);
  EXPECT_TRUE((*tokenizer_)->IsSpecial(9));
  EXPECT_FALSE((*tokenizer_)->IsSpecial(0));
  EXPECT_THAT((*tokenizer_)->Encode("<s>  a", true), ElementsAre(4, 0));
  EXPECT_EQ((*tokenizer_)->Decode({0, 9, 1}, true), "a b");
}

TEST(TokenizerLoad, ReadsBothFilesOfADirectory) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "tokenizer_load_test";
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer.json") << SmallDocument().dump();
  std::filesystem::remove(dir / "tokenizer_config.json");
  auto tokenizer = Tokenizer::Load(dir.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("ab", true), ElementsAre(2));
  std::ofstream(dir / "tokenizer_config.json") << R"({"add_bos_token": true, "bos_token": "<s>"})";
  tokenizer = Tokenizer::Load(dir.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("ab", true), ElementsAre(4, 2));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace lombard
