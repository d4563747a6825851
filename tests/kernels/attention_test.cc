// Partial attention against float64, over spans in scattered blocks whose unused slots hold NaN.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/internal/kernel_table.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class AttentionTest : public KernelTest {};

// A span's keys and values as rows [token_count, kv_heads, head_dim], and in blocks.
struct Span {
  KvLayout layout;
  int token_count = 0, first_position = 0;
  std::vector<std::vector<char>> k_bytes, v_bytes;
  std::vector<const void*> k_blocks, v_blocks;

  float Load(const std::vector<std::vector<char>>& blocks, int t, int head, int d) const {
    const int slot = t % layout.block_tokens;
    return LoadUnaligned(layout.dtype, blocks[t / layout.block_tokens].data(),
                         (size_t(head) * layout.block_tokens + slot) * layout.head_dim + d);
  }
};

// Written through WriteKv, so that it is tested by the same comparison; tokens before `visible_from` stay
// NaN.
Span MakeSpan(const CpuContext& context, std::mt19937_64& random, KvLayout layout, int tokens, int first,
              float k_scale, int visible_from) {
  Span span{layout, tokens, first};
  const int blocks = (tokens + layout.block_tokens - 1) / layout.block_tokens;
  for (auto* bytes : {&span.k_bytes, &span.v_bytes}) {
    bytes->assign(blocks, std::vector<char>(layout.block_bytes()));
    for (auto& block : *bytes) {
      for (int64_t i = 0; i < layout.block_elements(); ++i)
        StoreUnaligned(layout.dtype, block.data(), i, kNan);
    }
  }
  const int width = layout.kv_heads * layout.head_dim, stride = width + 3;
  const std::vector<float> k = RandomFloats(random, size_t(tokens) * stride, k_scale),
                           v = RandomFloats(random, size_t(tokens) * stride);
  std::vector<void*> k_rows, v_rows;
  std::vector<int> slots;
  for (int t = 0; t < tokens; ++t) {
    k_rows.push_back(span.k_bytes[t / layout.block_tokens].data());
    v_rows.push_back(span.v_bytes[t / layout.block_tokens].data());
    slots.push_back(t % layout.block_tokens);
  }
  WriteKvArgs write;
  const int skip = std::min(visible_from, tokens);
  write.k = k.data() + size_t(skip) * stride, write.v = v.data() + size_t(skip) * stride;
  write.k_stride = write.v_stride = stride;
  write.rows = tokens - skip, write.layout = layout;
  write.k_blocks = k_rows.data() + skip, write.v_blocks = v_rows.data() + skip,
  write.slots = slots.data() + skip;
  WriteKv(context, write);
  for (const auto& block : span.k_bytes) span.k_blocks.push_back(block.data());
  for (const auto& block : span.v_bytes) span.v_blocks.push_back(block.data());
  return span;
}

struct Query {
  std::vector<float> q;
  std::vector<int32_t> positions;
  int q_heads = 0, window = 0;
  float scale = 1;
};

struct Result {
  std::vector<float> acc, max, sum;
  bool operator==(const Result&) const = default;
};

AttentionArgs MakeArgs(const Span& span, const Query& query, Result& result) {
  const size_t heads = query.positions.size() * query.q_heads;
  result.acc.assign(heads * span.layout.head_dim, kNan);
  result.max.assign(heads, kNan);
  result.sum.assign(heads, kNan);
  AttentionArgs args;
  args.q = query.q.data(), args.q_positions = query.positions.data();
  args.rows = static_cast<int>(query.positions.size()), args.q_heads = query.q_heads;
  args.layout = span.layout;
  args.k_blocks = span.k_blocks.data(), args.v_blocks = span.v_blocks.data();
  args.token_count = span.token_count, args.first_position = span.first_position;
  args.window = query.window, args.scale = query.scale;
  args.acc = result.acc.data(), args.max = result.max.data(), args.sum = result.sum.data();
  return args;
}

Result Attend(const CpuContext& context, const Span& span, const Query& query) {
  Result result;
  const AttentionArgs args = MakeArgs(span, query, result);
  PartialAttention(context, absl::MakeConstSpan(&args, 1));
  return result;
}

// The bounds. A score is a sum of head_dim products in chains over >= 4 lanes (bf16 pairs: in one chain),
// scaled afterwards (two roundings at most): it errs by at most e = (chain + 6) eps * sum |q k scale|. So
// exp(s - max) errs by a factor of 1 + 2 e + the error of exp, also through the repeated rescaling (once per
// 64 keys at most, and per part), and sums of n positive terms by n eps at most. Products of bf16 pairs also
// round the weights themselves: by 2^-8, half a unit in the last of 8 bits, with what a short polynomial adds
// before.
constexpr double kWeightRounding = 0x1p-8 + 3e-6;

void ExpectMatches(Isa isa, const Span& span, const Query& query, const Result& got) {
  const bool bf16 = span.layout.dtype == DType::kBF16, pairs = bf16 && isa >= Isa::kAvx512Bf16;
  const int group = query.q_heads / span.layout.kv_heads, dim = span.layout.head_dim;
  for (size_t r = 0; r < query.positions.size(); ++r) {
    for (int h = 0; h < query.q_heads; ++h) {
      const size_t at = r * query.q_heads + h;
      std::vector<float> q(query.q.begin() + at * dim, query.q.begin() + (at + 1) * dim);
      if (bf16) {
        for (float& value : q) value = FloatFromBF16(BF16FromFloat(value));
      }
      const AttentionReference expected = AttentionOverSpan(
          q.data(), dim, query.scale, query.positions[r], query.window, span.first_position, span.token_count,
          [&](int t, int d) { return span.Load(span.k_bytes, t, h / group, d); },
          [&](int t, int d) { return span.Load(span.v_bytes, t, h / group, d); });
      if (expected.seen == 0) {
        ASSERT_EQ(got.max[at], -kInf);
        ASSERT_EQ(got.sum[at], 0);
        for (int d = 0; d < dim; ++d) ASSERT_EQ(got.acc[at * dim + d], 0);
        continue;
      }
      const double score_error = ((pairs ? dim : dim / 4) + 6) * kEpsilon * expected.score_magnitude;
      ASSERT_NEAR(got.max[at], expected.max, score_error) << "max, row " << r << ", head " << h;
      const double tiles = span.token_count / internal::kTileTokens + 2;
      // s - max is itself rounded: half a unit of values up to the largest score.
      const double factor = 2 * score_error + 2 * kEpsilon * std::abs(expected.max) +
                            (2 + tiles) * (internal::kExpRelativeError + 2 * kEpsilon) +
                            expected.seen * kEpsilon + (pairs ? kWeightRounding : 0);
      ASSERT_NEAR(got.sum[at], expected.sum, factor * expected.sum + 1e-30)
          << "sum, row " << r << ", head " << h;
      for (int d = 0; d < dim; ++d) {
        ASSERT_NEAR(got.acc[at * dim + d], expected.acc[d], factor * expected.acc_magnitude[d] + 1e-30)
            << "acc, row " << r << ", head " << h << ", dim " << d;
      }
    }
  }
}

Query MakeQuery(std::mt19937_64& random, int rows, int q_heads, int head_dim, int first, int window,
                float score_scale) {
  Query query;
  query.q_heads = q_heads, query.window = window;
  query.scale = score_scale / head_dim;
  query.q = RandomFloats(random, size_t(rows) * q_heads * head_dim);
  query.positions.resize(rows);
  std::iota(query.positions.begin(), query.positions.end(), first);
  return query;
}

TEST_P(AttentionTest, AgreesWithFloat64OnEveryKindOfShape) {
  for (uint64_t seed = 1; seed <= 90; ++seed) {
    std::mt19937_64 random(seed * 104729);
    KvLayout layout;
    layout.dtype = kAllDTypes[seed % 3];
    layout.head_dim = Pick(random, {8, 20, 64, 80, 96, 128});
    layout.kv_heads = Pick(random, {1, 2, 3});
    layout.block_tokens = Pick(random, {1, 4, 16, 32, 48, 128});
    const int q_heads = layout.kv_heads * Pick(random, {1, 2, 3, 4, 5, 7, 8, 13});
    const int rows = Pick(random, {1, 1, 2, 3, 9, 40});
    const int tokens = Pick(random, {1, 2, 3, 15, 31, 32, 33, 63, 64, 65, 100, 127, 200, 257});
    const int window = Pick(random, {0, 0, 1, 7, 64, 130});
    const int first = Pick(random, {0, 5, 1000});
    // Before the span (sees nothing), inside it (prefill), just behind, far behind.
    const int position =
        std::max(0, first + Pick(random, {-3, 0, tokens / 2, tokens - 1, tokens + 40, tokens + 5000}));
    // Scores of the size of 1 and of 1000.
    const float score_scale = Pick(random, {1, 6, 3000});
    // Keys that no row sees are never touched, even where their block is in the span.
    const int visible_from = window == 0 ? 0 : std::max(0, position - window + 1 - first);
    SCOPED_TRACE("seed " + std::to_string(seed) + ", " + std::string(DTypeName(layout.dtype)) +
                 ", head_dim " + std::to_string(layout.head_dim) + ", heads " + std::to_string(q_heads) +
                 "/" + std::to_string(layout.kv_heads) + ", block " + std::to_string(layout.block_tokens) +
                 ", rows " + std::to_string(rows) + " from " + std::to_string(position) + ", span " +
                 std::to_string(first) + " + " + std::to_string(tokens) + ", window " +
                 std::to_string(window));
    const Span span = MakeSpan(context(), random, layout, tokens, first, 1, visible_from);
    const Query query = MakeQuery(random, rows, q_heads, layout.head_dim, position, window, score_scale);
    ExpectMatches(GetParam(), span, query, Attend(context(), span, query));
    if (HasFatalFailure()) return;
  }
}

TEST_P(AttentionTest, LongSpansAgreeWithFloat64WhetherSplitOrNot) {
  std::mt19937_64 random(31);
  for (const int rows : {1, 5, 70}) {
    const KvLayout layout{DType::kBF16, 2, 64, 32};
    const Span span = MakeSpan(context(), random, layout, 2500, 100, 1, 0);
    const Query query = MakeQuery(random, rows, 8, 64, 100 + 2500 - rows, 0, 8);
    ExpectMatches(GetParam(), span, query, Attend(context(), span, query));
    if (HasFatalFailure()) return;
  }
}

TEST_P(AttentionTest, AnEmptySpanGivesTheEmptyState) {
  std::mt19937_64 random(1);
  const Span span = MakeSpan(context(), random, {DType::kBF16, 2, 64, 32}, 0, 0, 1, 0);
  const Query query = MakeQuery(random, 3, 4, 64, 0, 0, 1);
  const Result result = Attend(context(), span, query);
  EXPECT_EQ(result.max, std::vector<float>(12, -kInf));
  EXPECT_EQ(result.sum, std::vector<float>(12, 0));
  EXPECT_EQ(result.acc, std::vector<float>(12 * 64, 0));
}

// One row over one span: the same bits alone, with other rows around it, with other items, on one thread or
// several.
TEST_P(AttentionTest, ARowsStateDoesNotDependOnItsBatch) {
  for (DType dtype : kAllDTypes) {
    for (const int head_dim : {64, 80, 20}) {
      std::mt19937_64 random(77);
      const KvLayout layout{dtype, 2, head_dim, 32};
      const int tokens = 2200, rows = 60;
      const Span span = MakeSpan(context(), random, layout, tokens, 0, 1, 0);
      const Query all = MakeQuery(random, rows, 8, head_dim, tokens - rows, 0, 8);
      const Query windowed = MakeQuery(random, 1, 8, head_dim, tokens + 3, 100, 8);
      std::vector<Result> results(2);
      const std::vector<AttentionArgs> items = {MakeArgs(span, windowed, results[0]),
                                                MakeArgs(span, all, results[1])};
      PartialAttention(context(), items);
      EXPECT_EQ(results[0], Attend(serial(), span, windowed));
      // Few rows may be summed in another order than many: two of them here are eight per KV head.
      const int count = GetParam() >= Isa::kAvx512Bf16 && dtype == DType::kBF16 ? 2 : 1;
      for (const int r : {0, 1, 30, 58}) {
        const auto part = [&](const auto& of_all, int per_row) {
          return std::decay_t<decltype(of_all)>(of_all.begin() + r * per_row,
                                                of_all.begin() + (r + count) * per_row);
        };
        Query some = all;
        some.q = part(all.q, 8 * head_dim);
        some.positions = part(all.positions, 1);
        const Result alone = Attend(serial(), span, some);
        EXPECT_EQ(alone.acc, part(results[1].acc, 8 * head_dim));
        EXPECT_EQ(alone.max, part(results[1].max, 8));
        EXPECT_EQ(alone.sum, part(results[1].sum, 8));
      }
    }
  }
}

// Where a span is cut must not show beyond fp32, though weights may be rounded to bf16: ranks that share a
// request cut it elsewhere than one rank alone. The merge is in float64.
TEST_P(AttentionTest, PartsOfASpanMergeToTheWholeWithinFp32) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const KvLayout layout{DType::kBF16, 2, 64, 4};
    const Span span = MakeSpan(context(), random, layout, 700, 0, 1, 0);
    const Query query = MakeQuery(random, 2, 8, 64, 800, 0, 60);
    const Result whole = Attend(context(), span, query);
    const size_t heads = whole.max.size();
    std::vector<double> sum(heads), acc(heads * 64);
    for (int begin = 0; begin < span.token_count;) {
      const int count = std::min(span.token_count - begin, 4 * Pick(random, {1, 7, 16, 31, 50}));
      Result part;
      AttentionArgs args = MakeArgs(span, query, part);
      args.k_blocks += begin / 4, args.v_blocks += begin / 4;
      args.first_position += begin, args.token_count = count;
      PartialAttention(context(), absl::MakeConstSpan(&args, 1));
      for (size_t h = 0; h < heads; ++h) {
        const double factor = std::exp(double{part.max[h]} - whole.max[h]);
        sum[h] += part.sum[h] * factor;
        for (int d = 0; d < 64; ++d) acc[h * 64 + d] += part.acc[h * 64 + d] * factor;
      }
      begin += count;
    }
    // 700 terms of at most 1 each, scores of up to 60 (their rounding moves exp by 60 eps), and the rest:
    // 1000 eps.
    for (size_t h = 0; h < heads; ++h) {
      ASSERT_NEAR(sum[h], whole.sum[h], 1000 * kEpsilon * whole.sum[h]) << "head " << h;
      for (int d = 0; d < 64; ++d)
        ASSERT_NEAR(acc[h * 64 + d], whole.acc[h * 64 + d], 1000 * kEpsilon * whole.sum[h])
            << "head " << h << ", " << d;
    }
  }
}

TEST_P(AttentionTest, NanKeysAreNotTakenForNoKeys) {
  std::mt19937_64 random(3);
  const KvLayout layout{DType::kBF16, 1, 64, 16};
  Span span = MakeSpan(context(), random, layout, 40, 0, 1, 40);  // nothing written: all NaN
  const Query query = MakeQuery(random, 1, 2, 64, 50, 0, 1);
  const Result got = Attend(context(), span, query);
  for (const float a : got.acc) ASSERT_TRUE(std::isnan(a));
  for (const float s : got.sum) ASSERT_TRUE(std::isnan(s));
}

TEST_P(AttentionTest, RowsMayLieFarApart) {
  std::mt19937_64 random(13);
  const KvLayout layout{DType::kBF16, 1, 64, 16};
  Span span = MakeSpan(context(), random, layout, 300, 0, 1, 0);
  // Nobody sees the keys 50 to 199: with a window of 20, rows at 49 and 219 leave a gap.
  for (int t = 50; t < 200; ++t) {
    for (auto* blocks : {&span.k_bytes, &span.v_bytes}) {
      for (int d = 0; d < 64; ++d)
        StoreUnaligned(DType::kBF16, (*blocks)[t / 16].data(), (t % 16) * 64 + d, kNan);
    }
  }
  Query query = MakeQuery(random, 3, 4, 64, 0, 20, 4);
  query.positions = {49, 219, 219};
  ExpectMatches(GetParam(), span, query, Attend(context(), span, query));
}

LOMBARD_FOR_EVERY_ISA(AttentionTest);

}  // namespace
}  // namespace lombard
