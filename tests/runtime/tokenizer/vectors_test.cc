// Goal: the ids and texts that other implementations publish for well-known tokenizers. Method: each vector
// file of the shared data set against the tokenizer it was made for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "tests/support/shared_data.h"

namespace lombard {
namespace {

using nlohmann::json;

std::string DirOf(const std::string& name) {
  return absl::StrCat(kSharedData, name == "stories260K-hf" ? "/models/" : "/tokenizers/", name);
}

std::unique_ptr<Tokenizer> LoadOrDie(const std::string& name) {
  auto tokenizer = Tokenizer::Load(DirOf(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<json> ReadJsonLines(const std::string& path) {
  std::vector<json> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

// transformers removes spaces before punctuation from the decoded text of some tokenizers (GPT-2 among them);
// Decode does not, as it would lose what was there.
std::string CleanUpSpaces(const std::string& text) {
  return absl::StrReplaceAll(text, {{" .", "."},
                                    {" ?", "?"},
                                    {" !", "!"},
                                    {" ,", ","},
                                    {" ' ", "'"},
                                    {" n't", "n't"},
                                    {" 'm", "'m"},
                                    {" 's", "'s"},
                                    {" 've", "'ve"},
                                    {" 're", "'re"}});
}

class PublishedVectors : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tokenizers, PublishedVectors,
                         testing::Values("gpt2", "llama3", "phi3-mini", "qwen2"), [](const auto& info) {
                           return absl::StrReplaceAll(info.param, {{"-", "_"}});
                         });

TEST_P(PublishedVectors, GiveExactlyTheExpectedIds) {
  const std::string path = DirOf(GetParam()) + "/vectors.jsonl";
  LOMBARD_SKIP_WITHOUT(path);
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrDie(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<json> vectors = ReadJsonLines(path);
  EXPECT_EQ(vectors.size(), 47);
  for (const json& vector : vectors) {
    const std::string text = vector["text"];
    const std::vector<int32_t> ids = vector["ids"];
    EXPECT_EQ(tokenizer->Encode(text, /*add_special_tokens=*/false), ids) << testing::PrintToString(text);
  }
}

struct SwiftFile {
  std::string tokenizer, file;
  std::vector<int32_t> prefix;  // Ids in the file that the tokenizer at hand does not add.
  bool cleaned_up;
};

TEST(SwiftVectors, GiveExactlyTheExpectedIdsAndTexts) {
  for (const SwiftFile& file : {SwiftFile{"gpt2", "vectors_swift.jsonl", {}, true},
                                SwiftFile{"phi3-mini", "vectors_llama2_swift.jsonl", {1}, false}}) {
    SCOPED_TRACE(file.tokenizer);
    const std::string path = absl::StrCat(DirOf(file.tokenizer), "/", file.file);
    LOMBARD_SKIP_WITHOUT(path);
    const std::unique_ptr<Tokenizer> tokenizer = LoadOrDie(file.tokenizer);
    ASSERT_NE(tokenizer, nullptr);
    for (const json& vector : ReadJsonLines(path)) {
      const std::string text = vector["text"];
      const std::vector<int32_t> expected = vector["ids"];
      std::vector<int32_t> ids = file.prefix;
      for (const int32_t id : tokenizer->Encode(text, true)) ids.push_back(id);
      EXPECT_EQ(ids, expected) << text;
      const auto decode = [&](bool skip_special_tokens) {
        const std::string decoded = tokenizer->Decode(expected, skip_special_tokens);
        return file.cleaned_up ? CleanUpSpaces(decoded) : decoded;
      };
      EXPECT_EQ(decode(false), std::string(vector["decoded_with_special"])) << text;
      EXPECT_EQ(decode(true), std::string(vector["decoded_without_special"])) << text;
    }
  }
}

TEST(LongTexts, GiveExactlyTheExpectedIdsAndText) {
  for (const auto& [name, file, bos] :
       {std::tuple<std::string, std::string, std::vector<int32_t>>{"gpt2", "long_text_encoded.json", {}},
        {"phi3-mini", "long_text_llama2_encoded.json", {1}}}) {
    SCOPED_TRACE(name);
    const std::string path = absl::StrCat(DirOf(name), "/", file);
    LOMBARD_SKIP_WITHOUT(path);
    const std::unique_ptr<Tokenizer> tokenizer = LoadOrDie(name);
    ASSERT_NE(tokenizer, nullptr);
    const json vector = json::parse(*ReadWholeFile(path));
    std::vector<int32_t> ids = bos;
    for (const int32_t id : tokenizer->Encode(std::string(vector["text"]), false)) ids.push_back(id);
    std::vector<int32_t> expected = vector["token_ids"];
    EXPECT_EQ(ids, expected);
  }
}

TEST(MistralSample, RenderedChatGivesTheExpectedIds) {
  const std::string dir = DirOf("mistral-v1") + "/samples/no_tools";
  LOMBARD_SKIP_WITHOUT(dir + "/tokens_v1.json");
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrDie("mistral-v1");
  ASSERT_NE(tokenizer, nullptr);
  // The sample shows spaces as U+2581 and puts one behind each control token, which its tokenizer adds
  // itself.
  const std::string text = absl::StrReplaceAll(*ReadWholeFile(dir + "/text_v1.txt"),
                                               {{"<s>▁", "<s>"}, {"</s>▁", "</s>"}, {"▁", " "}, {"\n", ""}});
  const std::vector<int32_t> expected = json::parse(*ReadWholeFile(dir + "/tokens_v1.json"))["tokens"];
  EXPECT_EQ(tokenizer->Encode(text, false), expected);
}

TEST(StoriesModel, PromptsOfTheGoldenFileGiveTheirIds) {
  const std::string path = absl::StrCat(kSharedData, "/models/stories260K-golden.json");
  LOMBARD_SKIP_WITHOUT(path);
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrDie("stories260K-hf");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  const json file =
      json::parse(*ReadWholeFile(path));  // named: the loop's range would not keep a temporary alive
  for (const json& golden : file["cases"]) {
    const std::vector<int32_t> ids = golden["prompt_ids"];
    EXPECT_EQ(tokenizer->Encode(std::string(golden["prompt"]), true), ids) << golden["prompt"];
    std::vector<int32_t> generated = golden["greedy_ids"];
    EXPECT_EQ(tokenizer->Decode(generated, true), std::string(golden["greedy_text"])) << golden["prompt"];
  }
}

}  // namespace
}  // namespace lombard
