// Goal: every supported architecture gives the logits of Hugging Face transformers (float64 products), on one
// store and with most of the KV at one or three creditors. The references are made by
// tools/reference_logits/make.py. Tolerances: 1e-4 of the largest logit against the reference; 1e-5 of it
// between one store and several (fp32 merge rounding).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/split_forward.h"

namespace lombard {
namespace {

class ArchitecturesTest : public testing::TestWithParam<const char*> {};

float LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::isnan(a[i] - b[i]) ? INFINITY : std::abs(a[i] - b[i]));
  return largest;
}

TEST_P(ArchitecturesTest, LogitsAreThoseOfTransformersWhereverTheKvLies) {
  const std::string dir = std::string("tests/data/architectures/") + GetParam();
  const auto model = Model::Load(dir);
  ASSERT_TRUE(model.ok()) << model.status();
  const nlohmann::json reference = nlohmann::json::parse(std::ifstream(dir + "/reference.json"));
  const std::vector<int32_t> prompt = reference["prompt_ids"];
  const std::vector<int> positions = reference["positions"];
  const size_t vocabulary = (*model)->config().vocab_size;

  for (Isa isa : kAllIsas) {
    if (isa > DetectIsa()) continue;  // the CPU lacks it; kernels' own tests count these as skipped
    SplitForwardOptions options{.chunk_tokens = 1000, .context = {isa, nullptr}};
    const auto alone = SplitForward(**model, prompt, options);
    ASSERT_TRUE(alone.ok()) << alone.status();
    float scale = 0;
    for (float logit : *alone) scale = std::max(scale, std::abs(logit));
    for (size_t i = 0; i < positions.size(); ++i) {
      const std::vector<float> expected = reference["logits"][i];
      for (size_t v = 0; v < vocabulary; ++v) {
        ASSERT_NEAR((*alone)[positions[i] * vocabulary + v], expected[v], 1e-4 * scale)
            << GetParam() << " at position " << positions[i] << ", token " << v << ", " << IsaName(isa);
      }
    }
    for (const int creditors : {1, 3}) {
      for (const int chunk : {1, 13}) {
        options.chunk_tokens = chunk, options.creditors = creditors, options.local_blocks = 1,
        options.blocks_per_loan = 2;
        const auto split = SplitForward(**model, prompt, options);
        ASSERT_TRUE(split.ok()) << split.status();
        EXPECT_LE(LargestDifference(*split, *alone), 1e-5 * scale)
            << GetParam() << ", " << creditors << " creditors, chunks of " << chunk << ", " << IsaName(isa);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ArchitecturesTest,
                         testing::Values("llama-biases-d16", "llama-gqa-d128-yarn", "llama-gqa-d64",
                                         "llama-mha-d80-linear", "llama-mqa-d96-llama3-tied",
                                         "mistral-window-d32", "qwen2-tied-d64", "qwen2-window-d16",
                                         "qwen3-gqa-d32", "qwen3-yarn-d64-tied"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lombard
