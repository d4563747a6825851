// Goal: every supported part of tokenizer.json does what the reference implementation does, corner cases
// included. Method: goldens.h.
#include <gtest/gtest.h>

#include "runtime/model/tokenizer/tokenizer.h"
#include "tests/runtime/tokenizer/goldens.h"

namespace lombard {
namespace {

TEST(TokenizerGoldens, EveryDocumentGivesTheReferencesIdsAndTexts) {
  const Goldens goldens = LoadGoldens();
  EXPECT_GT(goldens.documents.size(), 70);
  for (const GoldenDocument& document : goldens.documents) {
    SCOPED_TRACE(document.name);
    const auto tokenizer = Tokenizer::Parse(document.tokenizer_json, document.name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const nlohmann::json& result : document.results) {
      const std::string& text = goldens.texts[result["text"]];
      SCOPED_TRACE(testing::PrintToString(text));
      const std::vector<int32_t> ids = result["ids"];
      EXPECT_EQ((*tokenizer)->Encode(text, true), ids);
      EXPECT_EQ((*tokenizer)->Encode(text, false), result.value("plain", ids));
      if (ids.empty()) continue;
      const std::string decoded = result.value("decoded", text);
      EXPECT_EQ((*tokenizer)->Decode(ids, false), decoded);
      EXPECT_EQ((*tokenizer)->Decode(ids, true), result.value("skipped", decoded));
    }
  }
}

}  // namespace
}  // namespace lombard
