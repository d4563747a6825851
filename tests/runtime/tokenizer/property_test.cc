// Goal: what holds for every tokenizer and every input. Method: random texts, bytes and ids over the golden
// documents.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/model/tokenizer/tokenizer.h"
#include "runtime/model/tokenizer/unicode.h"
#include "tests/runtime/tokenizer/goldens.h"

namespace lombard {
namespace {

using tokenization::IsValidUtf8;

std::unique_ptr<Tokenizer> ByName(const Goldens& goldens, absl::string_view name) {
  for (const GoldenDocument& document : goldens.documents) {
    if (document.name == name) return *Tokenizer::Parse(document.tokenizer_json, document.name);
  }
  CHECK(false) << name;
  return nullptr;
}

// Valid characters of all lengths, single bytes that are no character, and the beginnings of characters.
std::string RandomBytes(std::mt19937_64& rng) {
  std::string out;
  for (int i = rng() % 60; i > 0; --i) {
    switch (rng() % 6) {
      case 0:
        out.push_back(static_cast<char>(rng()));
        break;
      case 1:
        absl::StrAppend(
            &out, absl::string_view("\xE6\x97\xA5\xF0\x9F\x98\x80\xC3\xA9").substr(rng() % 9, rng() % 5));
        break;
      case 2:
        absl::StrAppend(&out, " the");
        break;
      case 3:
        out.append(rng() % 5, ' ');
        break;
      default:
        out.push_back(static_cast<char>('!' + rng() % 94));
    }
  }
  return out;
}

TEST(RoundTrip, EveryByteSurvivesWhereTheVocabularyHasBytes) {
  const Goldens goldens = LoadGoldens();
  std::mt19937_64 rng(20240611);
  for (const char* name : {"byte-level", "byte-level without merges", "byte-level, ignore_merges",
                           "byte-level, no regex", "split GPT-4", "falcon", "byte-level normalizer", "pieces",
                           "pieces, no prefix", "added tokens, bytes"}) {
    const std::unique_ptr<Tokenizer> tokenizer = ByName(goldens, name);
    // Of this document, tokens that strip whitespace around them lose it.
    const bool strips = absl::StartsWith(name, "added");
    for (int round = 0; round < 300; ++round) {
      const std::string text = RandomBytes(rng);
      if (strips && absl::StrContains(text, "strip>")) continue;
      const std::vector<int32_t> ids = tokenizer->Encode(text, false);
      EXPECT_EQ(tokenizer->DecodeBytes(ids, false), text)
          << name << ", round " << round << ": " << testing::PrintToString(text);
      if (IsValidUtf8(text)) {
        EXPECT_EQ(tokenizer->Decode(ids, false), text) << name << ", round " << round;
      }
    }
  }
}

TEST(RoundTrip, EveryTextSurvivesInTheHardTexts) {
  const Goldens goldens = LoadGoldens();
  const std::unique_ptr<Tokenizer> tokenizer = ByName(goldens, "split GPT-4");
  for (const std::string& text : goldens.texts)
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, false), false), text);
}

TEST(Decode, AlwaysGivesValidUtf8) {
  const Goldens goldens = LoadGoldens();
  const std::unique_ptr<Tokenizer> byte_level = ByName(goldens, "byte-level"),
                                   pieces = ByName(goldens, "pieces");
  // A broken-off character is one U+FFFD among byte-level tokens; byte tokens give one each.
  const std::vector<int32_t> broken = byte_level->Encode("a\xE6\x97z\xFF", false);
  EXPECT_EQ(byte_level->Decode(broken, false), "a\xEF\xBF\xBDz\xEF\xBF\xBD");
  const std::vector<int32_t> bytes = pieces->Encode("a\xE6\x97z\xFF", false);
  EXPECT_EQ(pieces->Decode(bytes, false), "a\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD");
}

TEST(StreamDecoder, ReturnsWholeCharactersThatTogetherAreTheDecodedText) {
  const Goldens goldens = LoadGoldens();
  std::mt19937_64 rng(7);
  for (const GoldenDocument& document : goldens.documents) {
    const auto tokenizer = Tokenizer::Parse(document.tokenizer_json, document.name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int round = 0; round < 60; ++round) {
      std::vector<int32_t> ids;
      // Half of the time tokens of texts, with all that belongs together; else anything, unknown ids
      // included.
      if (round % 2 == 0) {
        ids = (*tokenizer)->Encode(RandomBytes(rng), true);
      } else {
        for (int i = rng() % 40; i > 0; --i)
          ids.push_back(static_cast<int32_t>(rng() % ((*tokenizer)->vocab_size() + 3)) - 1);
      }
      const bool skip = rng() % 2 == 0;
      StreamDecoder stream(**tokenizer, skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string part = stream.Push(id);
        EXPECT_TRUE(IsValidUtf8(part)) << document.name << ", round " << round;
        text += part;
      }
      const std::string rest = stream.Finish();
      EXPECT_TRUE(IsValidUtf8(rest)) << document.name << ", round " << round;
      EXPECT_EQ(text + rest, (*tokenizer)->Decode(ids, skip)) << document.name << ", round " << round;
    }
  }
}

TEST(StreamDecoder, EmitsEachCharacterAsSoonAsItIsComplete) {
  const Goldens goldens = LoadGoldens();
  for (const char* name : {"byte-level without merges", "pieces"}) {
    const std::unique_ptr<Tokenizer> tokenizer = ByName(goldens, name);
    StreamDecoder stream(*tokenizer, false);
    const std::string text = "a日é😀b";
    const std::vector<int32_t> ids = tokenizer->Encode(text, false);
    std::string seen;
    for (size_t i = 0; i < ids.size(); ++i) {
      seen += stream.Push(ids[i]);
      std::string complete = tokenizer->DecodeBytes(absl::MakeSpan(ids).subspan(0, i + 1), false);
      while (!IsValidUtf8(complete)) complete.pop_back();
      EXPECT_EQ(seen, complete) << name << ", token " << i;
    }
    EXPECT_EQ(seen, text) << "nothing is left for Finish";
    EXPECT_EQ(stream.Finish(), "");
  }
}

TEST(Encode, SeveralThreadsGetTheSameIds) {
  const Goldens goldens = LoadGoldens();
  const std::unique_ptr<Tokenizer> tokenizer = ByName(goldens, "split GPT-4");
  std::string text;
  for (const std::string& part : goldens.texts) text += part;
  const std::vector<int32_t> expected = tokenizer->Encode(text, true);
  std::vector<std::vector<int32_t>> found(4);
  std::vector<std::thread> threads;
  for (auto& ids : found) threads.emplace_back([&] { ids = tokenizer->Encode(text, true); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& ids : found) EXPECT_EQ(ids, expected);
}

TEST(Encode, ALongWordIsMergedInFewSteps) {
  // 100,000 letters without a place to cut; a loop that looked at all pairs for each merge would need
  // minutes.
  const Goldens goldens = LoadGoldens();
  const std::unique_ptr<Tokenizer> tokenizer = ByName(goldens, "pieces");
  std::mt19937_64 rng(3);
  std::string word;
  for (int i = 0; i < 100'000; ++i) word.push_back("theinos"[rng() % 7]);
  const std::vector<int32_t> ids = tokenizer->Encode(word, false);
  EXPECT_EQ(tokenizer->Decode(ids, false), word);
  EXPECT_LT(ids.size(), word.size());
}

}  // namespace
}  // namespace lombard
