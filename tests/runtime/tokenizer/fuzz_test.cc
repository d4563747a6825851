// Goal: no file and no text brings the tokenizer down. Method: the fuzz entry on the golden documents, with a
// small model so that mutations hit the structure, on its corpus, and on mutations of both.
#include "tests/support/fuzz.h"

#include <gtest/gtest.h>

#include "tests/runtime/tokenizer/goldens.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

TEST(TokenizerFuzz, GoldenDocumentsAndTheirMutationsAreParsedOrRefused) {
  const nlohmann::json model = nlohmann::json::parse(
      R"({"type": "BPE", "unk_token": "?", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
          "vocab": {"a": 0, "b": 1, "ab": 2, "?": 3, "▁": 4, "▁a": 5, "<0x65>": 6, "{": 7, "\"": 8, "{\"": 9, "Ġ": 10, "Ġab": 11},
          "merges": ["a b", ["▁", "a"], "{ \"", "Ġ ab"]})");
  std::vector<std::string> corpus;
  for (const GoldenDocument& document : LoadGoldens(&model).documents)
    corpus.push_back(document.tokenizer_json);
  for (const std::string& document : FuzzCorpus("tokenizer")) corpus.push_back(document);
  const uint64_t seed = 11;
  SCOPED_TRACE(seed);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, corpus, /*rounds=*/400, seed);
}

}  // namespace
}  // namespace lombard
