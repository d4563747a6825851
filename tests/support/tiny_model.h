// The checkpoint of tests/data/tiny, loaded once per program, and runs of it on in-process clusters.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/cluster_run.h"

namespace lombard {

class TinyModelTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (tokenizer_ != nullptr) return;
    auto model = Model::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = model->release();
    auto tokenizer = Tokenizer::Load(TestPath("tests/data/tiny"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = tokenizer->release();
  }

  // Empty when the job failed. Every worker's books must balance, and every loan be repaid.
  static ClusterRun Run(const WorkerSettings& settings, const std::vector<TestSequence>& sequences) {
    auto run = RunOnCluster(settings, *model_, *tokenizer_, sequences);
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return {};
    EXPECT_TRUE(run->invariants.ok()) << run->invariants;
    uint64_t granted = 0, repaid = 0;
    for (const auto& report : run->reports)
      granted += report.loans_granted(), repaid += report.loans_repaid();
    EXPECT_EQ(granted, repaid);
    return *std::move(run);
  }

  inline static const Model* model_ = nullptr;
  inline static const Tokenizer* tokenizer_ = nullptr;
};

}  // namespace lombard
