// Goal: every supported architecture gives on a GPU the logits of Hugging Face transformers (float64
// products), over a prefill in chunks: norms of heads, biases, windows, kinds of rotation.
// Tolerance as on CPUs (architectures_test.cc): 1e-4 of the largest logit.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/device/gpu_info.h"
#include "base/status.h"
#include "distattn/gpu_step_attention.h"
#include "runtime/engine/cpu_machine.h"
#include "runtime/engine/gpu/gpu_transformer.h"

namespace lombard {
namespace {

constexpr int kBlockTokens = 8;

// [prompt, vocab], all KV local; free blocks hold NaN.
absl::StatusOr<std::vector<float>> Forward(const Model& model, int device, const std::vector<int32_t>& prompt,
                                           int chunk_tokens) {
  const ModelConfig& c = model.config();
  const KvLayout layout{
      .dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .block_tokens = kBlockTokens};
  const int tokens = static_cast<int>(prompt.size()), blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  ASSIGN_OR_RETURN(const auto gpu_model, GpuModel::Load(model, device));
  ASSIGN_OR_RETURN(const auto storage, GpuKvStorage::Create(device, layout, c.layers, blocks));
  for (int block = 0; block < blocks; ++block) storage->Poison(BlockId(block));
  GpuTables tables;
  ASSIGN_OR_RETURN(GpuStream stream, GpuStream::Create(device));
  ASSIGN_OR_RETURN(const auto attention,
                   GpuStepAttention::Create(ShapeOf(c), storage.get(), nullptr, &stream));
  GpuTransformer transformer(gpu_model.get(), storage.get(), nullptr, &stream);
  RETURN_IF_ERROR(transformer.Reserve(tokens, tokens));
  std::vector<float> all;
  for (int begin = 0; begin < tokens; begin += chunk_tokens) {
    const int end = std::min(tokens, begin + chunk_tokens), rows = end - begin;
    AttentionPlan plan;
    LocalSpan span{.blocks = {}, .first_position = 0, .token_count = end};
    for (int block = 0; block * kBlockTokens < end; ++block) span.blocks.push_back(BlockId(block));
    SequenceRows sequence{.first_row = 0, .rows = rows, .first_position = begin};
    sequence.spans.push_back(std::move(span));
    plan.sequences.push_back(std::move(sequence));
    std::vector<int32_t> logit_rows;
    for (int t = begin; t < end; ++t) {
      plan.new_kv.push_back({BlockId(t / kBlockTokens), t % kBlockTokens});
      logit_rows.push_back(t - begin);
    }
    tables.Clear();
    RETURN_IF_ERROR(attention->Begin(static_cast<uint64_t>(begin), &plan));
    attention->AddTables(&tables);
    const auto ids = tables.Add<int32_t>(absl::MakeConstSpan(prompt).subspan(begin, rows));
    const auto wanted = tables.Add<int32_t>(logit_rows);
    RETURN_IF_ERROR(tables.Send(stream));
    RETURN_IF_ERROR(transformer.Forward({.tokens = tables.At(ids),
                                         .positions = attention->positions(),
                                         .logit_rows = tables.At(wanted),
                                         .blocks = attention->blocks(),
                                         .slots = attention->slots(),
                                         .rows = rows,
                                         .wanted = rows},
                                        [&](int layer, const void* q, void* out, DType out_dtype) {
                                          return attention->Attend(layer, q, out, out_dtype);
                                        }));
    const uint64_t count = static_cast<uint64_t>(rows) * c.vocab_size;
    ASSIGN_OR_RETURN(const PinnedMemory logits, PinnedMemory::Create(device, count * sizeof(float)));
    RETURN_IF_ERROR(stream.Copy(logits.data(), transformer.logits(), count * sizeof(float)));
    RETURN_IF_ERROR(stream.Synchronize());
    all.insert(all.end(), logits.data<float>(), logits.data<float>() + count);
  }
  return all;
}

class GpuArchitecturesTest : public testing::TestWithParam<const char*> {};

TEST_P(GpuArchitecturesTest, LogitsAreThoseOfTransformers) {
  const GpuSearch found = FindGpus();
  if (found.gpus.empty()) GTEST_SKIP() << "no GPU: " << found.reason;
  const std::string dir = std::string("tests/data/architectures/") + GetParam();
  const auto model = Model::Load(dir);
  ASSERT_TRUE(model.ok()) << model.status();
  const nlohmann::json reference = nlohmann::json::parse(std::ifstream(dir + "/reference.json"));
  const std::vector<int32_t> prompt = reference["prompt_ids"];
  const std::vector<int> positions = reference["positions"];
  const size_t vocabulary = (*model)->config().vocab_size;
  const auto logits = Forward(**model, found.gpus[0].device, prompt, /*chunk_tokens=*/37);
  ASSERT_TRUE(logits.ok()) << logits.status();
  float scale = 0;
  for (const float logit : *logits) scale = std::max(scale, std::abs(logit));
  for (size_t i = 0; i < positions.size(); ++i) {
    const std::vector<float> expected = reference["logits"][i];
    for (size_t v = 0; v < vocabulary; ++v) {
      ASSERT_NEAR((*logits)[positions[i] * vocabulary + v], expected[v], 1e-4 * scale)
          << GetParam() << ", position " << positions[i] << ", token " << v;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Model, GpuArchitecturesTest,
                         testing::Values("llama-biases-d16", "llama-gqa-d128-yarn", "llama-mha-d80-linear",
                                         "llama-mqa-d96-llama3-tied", "mistral-window-d32",
                                         "qwen2-window-d16", "qwen3-gqa-d32", "qwen3-yarn-d64-tied"));

}  // namespace
}  // namespace lombard
