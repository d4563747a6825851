// Inverse frequencies against values computed apart from the code under test. Plain, linear: closed form.
// llama3, yarn: the definitions restated per pair in this file, in other words than rope.cc (wavelengths
// instead of turns), plus a few numbers of well-known checkpoints worked out by hand from the same
// definitions.
#include "runtime/model/rope.h"

#include <cmath>
#include <numbers>

#include "base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lombard {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<RopeParameters> Read(const std::string& json, int head_dim, int positions) {
  auto file = JsonFile::Parse(json, "config.json");
  if (!file.ok()) return file.status();
  return ReadRope((*file)->fields(), head_dim, positions);
}

RopeParameters Good(const std::string& json, int head_dim, int positions) {
  auto rope = Read(json, head_dim, positions);
  EXPECT_TRUE(rope.ok()) << rope.status();
  return rope.ok() ? *rope : RopeParameters{};
}

// Rounding: a power and a few products in float64.
void ExpectClose(double actual, double expected, int pair) {
  EXPECT_NEAR(actual, expected, 1e-13 * std::fabs(expected)) << "pair " << pair;
}

TEST(Rope, PlainFrequenciesFallFromOneByTheBase) {
  const RopeParameters rope = Good(R"({"rope_theta": 500000})", 64, 2048);
  ASSERT_EQ(rope.inv_freq.size(), 32u);
  for (int i = 0; i < 32; ++i) ExpectClose(rope.inv_freq[i], std::exp(-std::log(500000.0) * i / 32), i);
  EXPECT_EQ(rope.attention_factor, 1.0f);
  EXPECT_NEAR(Good("{}", 4, 2048).inv_freq[1], 0.01, 1e-15) << "the base is 10000 when the file has none";
}

TEST(Rope, LinearDividesEveryFrequency) {
  for (const char* scaling :
       {R"({"rope_scaling": {"type": "linear", "factor": 4.0}})",
        R"({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 4}})",
        R"({"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 10000}})"}) {
    const RopeParameters rope = Good(scaling, 8, 2048);
    ASSERT_EQ(rope.inv_freq.size(), 4u);
    for (int i = 0; i < 4; ++i) ExpectClose(rope.inv_freq[i], std::pow(10.0, -i) / 4, i);
  }
}

TEST(Rope, Llama3KeepsShortWavelengthsDividesLongOnesAndBlendsBetween) {
  // Llama 3.1: base 500000, head_dim 128, factor 8, original context 8192, low 1, high 4.
  const RopeParameters rope = Good(
      R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})",
      128, 131072);
  ASSERT_EQ(rope.inv_freq.size(), 64u);
  int kept = 0, blended = 0, divided = 0;
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -i / 64.0), wavelength = 2 * std::numbers::pi / plain;
    double expected;
    if (wavelength < 8192 / 4.0) {
      expected = plain, ++kept;
    } else if (wavelength > 8192 / 1.0) {
      expected = plain / 8, ++divided;
    } else {
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      expected = (1 - smooth) * plain / 8 + smooth * plain, ++blended;
    }
    ExpectClose(rope.inv_freq[i], expected, i);
  }
  // Wavelength 2 pi 500000^(i/64) passes 2048 between i = 28 and 29, and 8192 between i = 34 and 35.
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(blended, 6);
  EXPECT_EQ(divided, 29);
  EXPECT_EQ(rope.attention_factor, 1.0f);
}

TEST(Rope, YarnRampsOverThePairIndexAndSharpensAttention) {
  // As Qwen2.5 is extended to 131072: base 1e6, head_dim 128, factor 4, original context 32768.
  const RopeParameters rope = Good(
      R"({"rope_theta": 1000000.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}})",
      128, 131072);
  // Pair where 32768 positions make 32 turns: 64 ln(32768 / 64 pi) / ln 1e6 = 23.596; 1 turn: 64 ln(32768 / 2
  // pi) / ln 1e6 = 39.651.
  const double low = 23, high = 40;
  ASSERT_EQ(rope.inv_freq.size(), 64u);
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(1e6, -i / 64.0);
    const double ramp = i <= low ? 0 : i >= high ? 1 : (i - low) / (high - low);
    ExpectClose(rope.inv_freq[i], plain / 4 * ramp + plain * (1 - ramp), i);
  }
  EXPECT_FLOAT_EQ(rope.attention_factor, 1.1386294361f);  // 0.1 ln 4 + 1
}

TEST(Rope, YarnOptionsAreHonoured) {
  const std::string base = R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000, "factor": 16,
      "original_max_position_embeddings": 4096, )";
  EXPECT_FLOAT_EQ(Good(base + R"("attention_factor": 0.5}})", 64, 65536).attention_factor, 0.5f);
  EXPECT_FLOAT_EQ(Good(base + R"("mscale": 0.8, "mscale_all_dim": 0.4}})", 64, 65536).attention_factor,
                  (0.08 * std::log(16.0) + 1) / (0.04 * std::log(16.0) + 1));
  // Without truncation the ramp starts at 32 ln(4096 / 64 pi) / ln 10000 = 10.47 and ends at 32 ln(4096 / 2
  // pi) / ln 10000 = 22.51.
  const RopeParameters smooth = Good(base + R"("truncate": false}})", 64, 65536);
  const double low = 32 * std::log(4096 / (64 * std::numbers::pi)) / std::log(10000.0);
  const double high = 32 * std::log(4096 / (2 * std::numbers::pi)) / std::log(10000.0);
  for (const int i : {10, 11, 17, 22, 23}) {
    const double ramp = std::min(1.0, std::max(0.0, (i - low) / (high - low)));
    ExpectClose(smooth.inv_freq[i], std::pow(10000.0, -i / 32.0) * (1 - ramp + ramp / 16), i);
  }
  // Narrower betas make a steeper ramp: 16 turns at 32 ln(4096 / 32 pi) / ln 10000 = 12.88, 2 turns at 20.10.
  const RopeParameters steep = Good(base + R"("beta_fast": 16, "beta_slow": 2}})", 64, 65536);
  ExpectClose(steep.inv_freq[12], std::pow(10000.0, -12 / 32.0), 12);
  ExpectClose(steep.inv_freq[13], std::pow(10000.0, -13 / 32.0) * (8.0 / 9 + 1.0 / 9 / 16), 13);
  ExpectClose(steep.inv_freq[21], std::pow(10000.0, -21 / 32.0) / 16, 21);
}

TEST(Rope, TheOriginalContextDefaultsToTheModelsAndMayStandOutside) {
  const std::string yarn = R"("rope_scaling": {"rope_type": "yarn", "factor": 4}})";
  const auto inside =
      Good(R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512}})",
           64, 2048);
  EXPECT_EQ(Good("{" + yarn, 64, 512).inv_freq, inside.inv_freq);
  EXPECT_EQ(Good(R"({"original_max_position_embeddings": 512, )" + yarn, 64, 2048).inv_freq, inside.inv_freq);
}

TEST(Rope, OtherKindsAreRefusedByName) {
  for (const char* type : {"dynamic", "longrope", "su", "mrope", "proportional", "Linear"}) {
    for (const char* key : {"type", "rope_type"}) {
      const auto rope =
          Read(absl::StrCat(R"({"rope_scaling": {")", key, R"(": ")", type, R"(", "factor": 2}})"), 64, 2048);
      EXPECT_EQ(rope.status().code(), absl::StatusCode::kUnimplemented) << rope.status();
      EXPECT_THAT(std::string(rope.status().message()), HasSubstr(type));
    }
  }
  const auto partial = Read(R"({"partial_rotary_factor": 0.5})", 64, 2048);
  EXPECT_EQ(partial.status().code(), absl::StatusCode::kUnimplemented) << partial.status();
}

TEST(Rope, BadNumbersAreRefusedWithTheirField) {
  for (const char* scaling :
       {R"({"type": "linear"})", R"({"type": "linear", "factor": 0})", R"({"type": "linear", "factor": "2"})",
        R"({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1})",
        R"({"type": "llama3", "factor": 8, "low_freq_factor": 1})", R"({"type": 3})", R"(["yarn"])",
        R"({"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32})",
        R"({"type": "yarn", "factor": -4})", R"({"type": "yarn", "factor": 4, "rope_theta": 1})"}) {
    const auto rope = Read(absl::StrCat(R"({"rope_scaling": )", scaling, "}"), 64, 2048);
    EXPECT_EQ(rope.status().code(), absl::StatusCode::kInvalidArgument) << scaling << ": " << rope.status();
    EXPECT_THAT(std::string(rope.status().message()), HasSubstr("rope_scaling")) << scaling;
  }
}

}  // namespace
}  // namespace lombard
