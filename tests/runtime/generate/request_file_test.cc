// Goal: each line of an input file is the request it says, or an error that names what is wrong; no line
// harms another.
#include "runtime/generate/request_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

GenerateRequest Parse(absl::string_view text) { return ParseRequestLine(text, 1, RequestDefaults()); }

TEST(RequestFile, ReadsThePlainFormWithEveryField) {
  const GenerateRequest r = Parse(
      R"({"id": "a", "prompt": "Hi\u00e9", "max_tokens": 7, "min_tokens": 2, "temperature": 0.5, "top_k": 4, "top_p": 0.9,
          "min_p": 0.1, "seed": -1, "repetition_penalty": 1.2, "presence_penalty": -0.5, "frequency_penalty": 0.25, "logprobs": 3,
          "stop": ["x", "yz"], "stop_token_ids": [5, 6], "ignore_eos": true, "skip_special_tokens": false, "n": 2,
          "add_special_tokens": false, "best_of": 2, "echo": false, "suffix": null, "logit_bias": {}, "stream": false,
          "cache_salt": "tenant 7"})");
  ASSERT_FALSE(r.error) << r.error->message;
  EXPECT_EQ(r.id_json, "\"a\"");
  EXPECT_EQ(std::get<std::string>(r.prompt), "Hi\xc3\xa9");
  EXPECT_FALSE(r.add_special_tokens);
  EXPECT_EQ(r.cache_salt, "tenant 7");
  const SamplingParams expected{.max_tokens = 7,
                                .min_tokens = 2,
                                .temperature = 0.5,
                                .top_k = 4,
                                .top_p = 0.9,
                                .min_p = 0.1,
                                .seed = ~uint64_t{0},
                                .repetition_penalty = 1.2,
                                .presence_penalty = -0.5,
                                .frequency_penalty = 0.25,
                                .logprobs = 3,
                                .stop = {"x", "yz"},
                                .stop_token_ids = {5, 6},
                                .ignore_eos = true,
                                .skip_special_tokens = false,
                                .n = 2};
  EXPECT_TRUE(r.sampling == expected);
}

TEST(RequestFile, ReadsTheBatchFormLikeThePlainOne) {
  const GenerateRequest r = Parse(
      R"({"custom_id": "request-1", "method": "POST", "url": "/v1/completions",
          "body": {"model": "any", "prompt": [1, 2, 3], "max_tokens": 9, "stop": "END"}})");
  ASSERT_FALSE(r.error) << r.error->message;
  EXPECT_EQ(r.id_json, "\"request-1\"");
  EXPECT_THAT(std::get<1>(r.prompt), ElementsAre(1, 2, 3));
  EXPECT_EQ(r.sampling.max_tokens, 9);
  EXPECT_THAT(r.sampling.stop, ElementsAre("END"));
}

TEST(RequestFile, FlagsApplyWhereTheLineSaysNothing) {
  RequestDefaults defaults;
  defaults.sampling.max_tokens = 100;
  defaults.sampling.temperature = 0.8;
  defaults.seed = 5;
  const GenerateRequest silent = ParseRequestLine(R"({"prompt": "x", "temperature": null})", 3, defaults);
  EXPECT_EQ(silent.sampling.max_tokens, 100);
  EXPECT_EQ(silent.sampling.temperature, 0.8);
  EXPECT_EQ(silent.sampling.seed, 5);
  EXPECT_EQ(silent.id_json, "\"line-3\"");
  const GenerateRequest loud =
      ParseRequestLine(R"({"prompt": "x", "temperature": 0, "max_tokens": 1, "seed": 6})", 3, defaults);
  EXPECT_EQ(loud.sampling.max_tokens, 1);
  EXPECT_EQ(loud.sampling.temperature, 0);
  EXPECT_EQ(loud.sampling.seed, 6);
}

TEST(RequestFile, WithoutAnySeedEachLineHasItsOwnAndKeepsIt) {
  std::set<uint64_t> seeds;
  for (uint64_t line = 1; line <= 100; ++line) {
    const uint64_t seed = ParseRequestLine(R"({"prompt": "x"})", line, {}).sampling.seed;
    EXPECT_EQ(ParseRequestLine(R"({"prompt": "x"})", line, {}).sampling.seed, seed);
    seeds.insert(seed);
  }
  EXPECT_EQ(seeds.size(), 100);
}

TEST(RequestFile, IdsComeBackAsTheyWere) {
  EXPECT_EQ(Parse(R"({"id": 7, "prompt": "x"})").id_json, "7");
  EXPECT_EQ(Parse(R"({"id": "7", "prompt": "x"})").id_json, "\"7\"");
  EXPECT_EQ(Parse(R"({"id": "q\"\n\u00fc", "prompt": "x"})").id_json, "\"q\\\"\\n\xc3\xbc\"");
}

TEST(RequestFile, NumbersMayBeWrittenAsDecimals) {
  EXPECT_EQ(Parse(R"({"prompt": "x", "max_tokens": 32.0})").sampling.max_tokens, 32);
  EXPECT_EQ(Parse(R"({"prompt": "x", "temperature": 1})").sampling.temperature, 1);
  EXPECT_EQ(Parse(R"({"prompt": "x", "seed": 18446744073709551615})").sampling.seed, ~uint64_t{0});
  EXPECT_EQ(Parse(R"({"prompt": "x", "logprobs": true})").sampling.logprobs, 0);
  EXPECT_EQ(Parse(R"({"prompt": "x", "logprobs": false})").sampling.logprobs, std::nullopt);
  EXPECT_THAT(std::get<1>(Parse(R"({"prompt": [[4, 5]]})").prompt), ElementsAre(4, 5));
  EXPECT_EQ(std::get<0>(Parse(R"({"prompt": ["only"]})").prompt), "only");
}

TEST(RequestFile, SaysWhatIsWrong) {
  struct Case {
    const char* text;
    std::vector<const char*> mentions;
  };
  const Case cases[] = {
      {R"({"prompt": "x")", {"not valid JSON"}},
      {R"({"prompt": "x"} trailing)", {"not valid JSON"}},
      {"{\"prompt\": \"\xff\"}", {"not valid JSON"}},
      {R"({"prompt": "x", "temperature": 1e999})", {"not valid JSON"}},
      {R"([1, 2])", {"JSON object", "a list"}},
      {R"({"id": "a"})", {"no prompt"}},
      {R"({"prompt": {}})", {"prompt", "an object"}},
      {R"({"prompt": []})", {"prompt", "empty"}},
      {R"({"prompt": [1, -2]})", {"prompt[1]", "-2"}},
      {R"({"prompt": [1, 2.5]})", {"prompt[1]", "2.5"}},
      {R"({"prompt": [1, "a"]})", {"prompt[1]", "a"}},
      {R"({"prompt": [4294967296]})", {"prompt[0]", "4294967296"}},
      {R"({"prompt": ["a", "b"]})", {"2 prompts"}},
      {R"({"prompt": "x", "cache_salt": 7})", {"cache_salt", "7", "a string"}},
      {R"({"prompt": "x", "max_tokens": 0})", {"max_tokens", "0", "between 1"}},
      {R"({"prompt": "x", "max_tokens": -4})", {"max_tokens", "-4"}},
      {R"({"prompt": "x", "max_tokens": 1.5})", {"max_tokens", "1.5"}},
      {R"({"prompt": "x", "max_tokens": 99999999999})", {"max_tokens", "99999999999"}},
      {R"({"prompt": "x", "max_tokens": "many"})", {"max_tokens", "many"}},
      {R"({"prompt": "x", "temperature": -1})", {"temperature", "-1"}},
      {R"({"prompt": "x", "temperature": "hot"})", {"temperature", "hot", "a number"}},
      {R"({"prompt": "x", "seed": 1.5})", {"seed", "1.5"}},
      {R"({"prompt": "x", "stop": 5})", {"stop", "5"}},
      {R"({"prompt": "x", "stop": ["a", 5]})", {"stop", "5"}},
      {R"({"prompt": "x", "stop": ""})", {"stop string"}},
      {R"({"prompt": "x", "stop_token_ids": 5})", {"stop_token_ids", "5"}},
      {R"({"prompt": "x", "ignore_eos": "yes"})", {"ignore_eos", "yes"}},
      {R"({"prompt": "x", "logprobs": 21})", {"logprobs", "21"}},
      {R"({"prompt": "x", "logprobs": "all"})", {"logprobs", "all"}},
      {R"({"prompt": "x", "n": 1000})", {"n is 1000"}},
      {R"({"prompt": "x", "echo": true})", {"echo is not supported"}},
      {R"({"prompt": "x", "suffix": "y"})", {"suffix is not supported"}},
      {R"({"prompt": "x", "logit_bias": {"5": 1}})", {"logit_bias is not supported"}},
      {R"({"prompt": "x", "best_of": 4})", {"best_of is not supported", "4"}},
      {R"({"prompt": "x", "response_format": {"type": "json_object"}})",
       {"response_format is not supported"}},
      {R"({"messages": []})", {"messages is not supported", "chat template"}},
      {R"({"id": [1], "prompt": "x"})", {"id is a list"}},
      {R"({"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": []}})",
       {"/v1/chat/completions", "chat template"}},
      {R"({"custom_id": "a", "url": "/v1/embeddings", "body": {}})", {"/v1/embeddings"}},
      {R"({"custom_id": "a", "body": {"prompt": "x"}})", {"no url"}},
      {R"({"custom_id": "a", "url": "/v1/completions"})", {"no body"}},
      {R"({"custom_id": "a", "url": "/v1/completions", "body": [1]})", {"body", "a list"}},
      {R"({"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {"prompt": "x"}})",
       {"method", "GET"}},
  };
  for (const Case& c : cases) {
    const GenerateRequest request = ParseRequestLine(c.text, 12, RequestDefaults());
    ASSERT_TRUE(request.error) << c.text;
    EXPECT_EQ(request.error->type, "invalid_request_error");
    EXPECT_THAT(request.error->message, StartsWith("line 12: "));
    for (const char* mention : c.mentions) EXPECT_THAT(request.error->message, HasSubstr(mention)) << c.text;
  }
}

TEST(RequestFile, IgnoresFieldsThatNobodyKnows) {
  EXPECT_FALSE(
      Parse(R"({"prompt": "x", "user": "me", "stream": true, "metadata": {"a": [1]}, "whatever": 5})").error);
  EXPECT_FALSE(Parse(R"({"prompt": "x", "response_format": {"type": "text"}})").error);
}

TEST(RequestFile, ABadLineConcernsItselfAlone) {
  const auto requests = ParseRequests(
      "{\"id\": \"a\", \"prompt\": \"1\"}\r\n\n{\"id\": \"b\", \"prompt\":\n{\"id\": \"c\", \"temperature\": "
      "9999, \"prompt\": \"3\"}\n"
      "  \t\n{\"id\": \"d\", \"prompt\": \"4\"}",
      RequestDefaults());
  ASSERT_EQ(requests.size(), 4) << "blank lines are no requests";
  EXPECT_FALSE(requests[0].error);
  EXPECT_THAT(requests[1].error->message, StartsWith("line 3: not valid JSON"));
  EXPECT_EQ(requests[1].id_json, "\"line-3\"");
  EXPECT_THAT(requests[2].error->message, StartsWith("line 4: temperature is 9999"));
  EXPECT_EQ(requests[2].id_json, "\"c\"") << "the id is known although the rest is wrong";
  EXPECT_FALSE(requests[3].error);
  EXPECT_EQ(requests[3].line, 6);
}

TEST(RequestFile, AnIdUsedTwiceIsAnErrorOfTheSecond) {
  const auto requests = ParseRequests(
      "{\"id\": 1, \"prompt\": \"x\"}\n{\"id\": \"1\", \"prompt\": \"x\"}\n{\"id\": 1, \"prompt\": \"y\"}\n",
      RequestDefaults());
  EXPECT_FALSE(requests[0].error);
  EXPECT_FALSE(requests[1].error) << "a number and a string are different ids";
  ASSERT_TRUE(requests[2].error);
  EXPECT_THAT(requests[2].error->message, HasSubstr("already that of line 1"));
}

TEST(RequestFile, DeepNestingIsAnErrorNotACrash) {
  EXPECT_TRUE(Parse(std::string(200000, '[')).error);
  EXPECT_TRUE(
      Parse(absl::StrCat("{\"prompt\": ", std::string(200000, '['), std::string(200000, ']'), "}")).error);
}

TEST(RequestFile, MissingFilesAreNamed) {
  const auto requests = ReadRequestFile("/no/such/input.jsonl", RequestDefaults());
  EXPECT_TRUE(absl::IsNotFound(requests.status()));
  EXPECT_THAT(std::string(requests.status().message()), HasSubstr("/no/such/input.jsonl"));
}

TEST(RequestFile, SurvivesItsFuzzCorpusAndMutations) {
  constexpr uint64_t kSeed = 1;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  RunFuzzCorpus(
      LLVMFuzzerTestOneInput,
      {R"({"id": "a", "prompt": "Hi", "max_tokens": 7, "temperature": 0.5, "stop": ["x", "yz"], "logprobs": 3, "n": 2})",
       R"({"custom_id": "r", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1, 2, 3], "seed": -5}})",
       "{\"prompt\": [[1]]}\n\n{\"prompt\": \"\\ud83d\\ude00\", \"logit_bias\": {\"1\": 2}}\n{\"prompt\"",
       R"({"prompt": "x", "stop_token_ids": [1, 2], "top_p": 1e-3, "best_of": 1, "response_format": {"type": "text"}})"},
      3000, kSeed);
}

}  // namespace
}  // namespace lombard
