// Goal: a bad field is refused with its name, value and range. Method: one wrong field at a time on top of
// valid parameters.
#include "runtime/engine/sampling_params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace lombard {
namespace {

using ::testing::HasSubstr;

TEST(SamplingParams, DefaultsAreValidAndGreedy) {
  EXPECT_TRUE(SamplingParams().Validate().ok());
  EXPECT_TRUE(SamplingParams().greedy());
}

TEST(SamplingParams, RefusesEachBadFieldByNameAndValue) {
  struct Case {
    std::function<void(SamplingParams&)> spoil;
    const char* field;
    const char* value;
  };
  const Case cases[] = {
      {[](auto& p) { p.max_tokens = 0; }, "max_tokens", "0"},
      {[](auto& p) { p.max_tokens = 4000000000u; }, "max_tokens", "4000000000"},
      {[](auto& p) { p.min_tokens = 17; }, "min_tokens", "max_tokens, which is 16"},
      {[](auto& p) { p.temperature = -0.5; }, "temperature", "-0.5"},
      {[](auto& p) { p.temperature = std::nan(""); }, "temperature", "nan"},
      {[](auto& p) { p.temperature = std::numeric_limits<double>::infinity(); }, "temperature", "inf"},
      {[](auto& p) { p.top_k = -2; }, "top_k", "-2"},
      {[](auto& p) { p.top_p = 0; }, "top_p", "0"},
      {[](auto& p) { p.top_p = 1.5; }, "top_p", "1.5"},
      {[](auto& p) { p.min_p = 1.01; }, "min_p", "1.01"},
      {[](auto& p) { p.repetition_penalty = 0; }, "repetition_penalty", "0"},
      {[](auto& p) { p.presence_penalty = 2.5; }, "presence_penalty", "2.5"},
      {[](auto& p) { p.frequency_penalty = -3; }, "frequency_penalty", "-3"},
      {[](auto& p) { p.logprobs = 21; }, "logprobs", "21"},
      {[](auto& p) { p.n = 0; }, "n is", "0"},
      {[](auto& p) { p.n = 129; }, "n is", "129"},
      {[](auto& p) { p.stop.assign(65, "x"); }, "stop strings", "65"},
      {[](auto& p) { p.stop = {""}; }, "stop string", "0"},
      {[](auto& p) { p.stop = {std::string(4097, 'x')}; }, "stop string", "4097"},
      {[](auto& p) {
         p.stop_token_ids = {3, -1};
       },
       "stop token id", "-1"},
  };
  for (const Case& c : cases) {
    SamplingParams params;
    c.spoil(params);
    const absl::Status status = params.Validate();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field << " " << c.value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.field));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.value));
    EXPECT_THAT(std::string(status.message()), HasSubstr("must be"));
  }
}

}  // namespace
}  // namespace lombard
