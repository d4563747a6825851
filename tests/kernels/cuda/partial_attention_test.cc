// Partial attention on the GPU against float64: spans in shuffled blocks of a slab in which everything else
// is NaN, rows of several spans merged here in float64 as the schedule says.
#include "kernels/cuda/partial_attention.h"

#include <limits>
#include <numeric>

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/attention_tiles.h"
#include "tests/kernels/cuda/gpu_test.h"
#include "tests/kernels/reference.h"

namespace lombard {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A span, and which rows of the step attend it.
struct Span {
  int tokens = 0, first_position = 0;
  std::vector<int32_t> rows;
  bool shared = false;
};

struct Batch {
  KvLayout layout;
  int group = 1, window = 0;
  float scale = 1, score = 1;      // score: the size of scores
  std::vector<int32_t> positions;  // [rows of the step]
  std::vector<Span> spans;         // in order of position for each row
};

struct States {
  std::vector<float> acc, max, sum;
};

class GpuPartialAttentionTest : public GpuTest {
 protected:
  // Keys and values of each span, [tokens, kv_heads, head_dim], rounded to the type; queries.
  struct Numbers {
    std::vector<std::vector<float>> k, v;
    std::vector<float> q;
  };

  Numbers Draw(const Batch& batch) {
    const KvLayout& layout = batch.layout;
    const auto draw = [&](size_t count, float scale) {
      return Decode(layout.dtype, Encode(layout.dtype, RandomFloats(random(), count, scale)));
    };
    Numbers numbers;
    const size_t width = size_t(layout.kv_heads) * layout.head_dim;
    for (const Span& span : batch.spans) {
      numbers.k.push_back(draw(span.tokens * width, 1)), numbers.v.push_back(draw(span.tokens * width, 1));
    }
    numbers.q = draw(batch.positions.size() * width * batch.group, 1);
    return numbers;
  }

  // Runs the batch, and leaves the schedule and the states here.
  void Run(const Batch& batch, const Numbers& numbers) {
    const KvLayout& layout = batch.layout;
    const int bt = layout.block_tokens, dim = layout.head_dim, q_heads = layout.kv_heads * batch.group;
    std::vector<AttentionItem> items;
    std::vector<int32_t> table;
    for (const Span& span : batch.spans) {
      items.push_back({.first_block = static_cast<int32_t>(table.size()),
                       .token_count = span.tokens,
                       .first_position = span.first_position,
                       .rows = span.rows,
                       .shared = span.shared});
      table.resize(table.size() + (span.tokens + bt - 1) / bt);
    }
    std::vector<int32_t> ids(table.size() + 2);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random());
    std::copy_n(ids.begin(), table.size(), table.begin());

    std::vector<float> slabs[2];
    for (int side = 0; side < 2; ++side) {
      slabs[side].assign(ids.size() * layout.block_elements(), kNan);
      for (size_t s = 0; s < items.size(); ++s) {
        const Span& span = batch.spans[s];
        // Keys behind the window of every row need not be there any more, nor keys that no row has reached.
        int64_t first = std::numeric_limits<int64_t>::max(), last = -1;
        for (const int row : span.rows) {
          const int64_t p = batch.positions[row] - span.first_position;
          first = std::min(first, batch.window == 0 ? 0 : p - batch.window + 1), last = std::max(last, p);
        }
        for (int64_t t = std::max<int64_t>(first, 0); t < span.tokens && t <= last; ++t) {
          for (int h = 0; h < layout.kv_heads; ++h) {
            const int64_t to =
                ((int64_t{table[items[s].first_block + t / bt]} * layout.kv_heads + h) * bt + t % bt) * dim;
            const float* from = &(side == 0 ? numbers.k : numbers.v)[s][(t * layout.kv_heads + h) * dim];
            std::copy_n(from, dim, slabs[side].begin() + to);
          }
        }
      }
    }
    schedule_ = PlanAttention(layout, q_heads, batch.positions, items);
    // Each kernel's list with one piece more, which is none.
    std::vector<AttentionWork> padded;
    for (int kernel = 0, next = 0; kernel < kAttentionKernels; ++kernel) {
      const int count = schedule_.work_count[kernel];
      padded.insert(padded.end(), schedule_.work.begin() + next, schedule_.work.begin() + next + count);
      if (count != 0) padded.emplace_back();
      next += count;
    }
    const DeviceMemory work = Upload(padded), rows = Upload(schedule_.rows),
                       positions = Upload(batch.positions), blocks = Upload(table),
                       q = Upload(Encode(layout.dtype, numbers.q)),
                       k = Upload(Encode(layout.dtype, slabs[0])), v = Upload(Encode(layout.dtype, slabs[1]));
    const size_t states = size_t(schedule_.state_rows) * q_heads;
    const DeviceMemory acc = Upload(std::vector<float>(states * dim, kNan)),
                       max = Upload(std::vector<float>(states, kNan)),
                       sum = Upload(std::vector<float>(states, kNan));
    GpuAttentionArgs args;
    const AttentionWork* next = work.data<AttentionWork>();
    for (int kernel = 0; kernel < kAttentionKernels; ++kernel) {
      args.tables.work[kernel] = next;
      const int count = schedule_.work_count[kernel];
      next += args.tables.work_count[kernel] = count == 0 ? 0 : count + 1;
    }
    args.tables.rows = rows.data<int32_t>(), args.tables.positions = positions.data<int32_t>();
    args.tables.block_table = blocks.data<int32_t>();
    args.q = q.data(), args.q_stride = int64_t{q_heads} * dim;
    args.k = k.data(), args.v = v.data();
    args.layout = layout, args.q_heads = q_heads, args.window = batch.window, args.scale = batch.scale;
    args.acc = acc.data<float>(), args.max = max.data<float>(), args.sum = sum.data<float>();
    EXPECT_LAUNCHED(GpuPartialAttention(stream().ref(), args));
    states_ = {Download<float>(acc), Download<float>(max), Download<float>(sum)};
  }

  // The bounds. A score is a sum of head_dim products; on tensor cores each addition may truncate (two
  // units). It errs by e = (2 head_dim + 3) eps sum |scale q k|, so exp(s - max) by a factor of 1 + 2 e, and
  // s - max is itself rounded. Weights are rescaled once per tile of 16 keys at most, and summed in chains.
  // In the 16-bit kernels weights are rounded to the type before they meet V; in fp16 also to zero.
  void ExpectMatches(const Batch& batch, const Numbers& numbers) {
    const KvLayout& layout = batch.layout;
    const int dim = layout.head_dim, q_heads = layout.kv_heads * batch.group;
    const double rounding = layout.dtype == DType::kF32 ? 0 : layout.dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
    for (int row = 0; row < static_cast<int>(batch.positions.size()); ++row) {
      for (int h = 0; h < q_heads; ++h) {
        // All spans of the row as one.
        std::vector<std::pair<const float*, const float*>> keys;
        int64_t first_position = 0;
        for (size_t s = 0; s < batch.spans.size(); ++s) {
          const Span& span = batch.spans[s];
          if (std::find(span.rows.begin(), span.rows.end(), row) == span.rows.end()) continue;
          if (keys.empty()) first_position = span.first_position;
          for (int t = 0; t < span.tokens; ++t) {
            const size_t at = (size_t(t) * layout.kv_heads + h / batch.group) * dim;
            keys.emplace_back(&numbers.k[s][at], &numbers.v[s][at]);
          }
        }
        const AttentionReference expected = AttentionOverSpan(
            &numbers.q[(size_t(row) * q_heads + h) * dim], dim, batch.scale, batch.positions[row],
            batch.window, first_position, static_cast<int>(keys.size()),
            [&](int t, int d) { return keys[t].first[d]; }, [&](int t, int d) { return keys[t].second[d]; });
        // The merge of what the kernel gave.
        double max = -std::numeric_limits<double>::infinity(), sum = 0;
        std::vector<double> acc(dim);
        for (int i = schedule_.merge_begin[row]; i < schedule_.merge_begin[row + 1]; ++i) {
          const size_t state = size_t(schedule_.merge_states[i]) * q_heads + h;
          const double part_max = states_.max[state];
          if (states_.sum[state] == 0) {
            ASSERT_EQ(part_max, -std::numeric_limits<double>::infinity());
            for (int d = 0; d < dim; ++d) ASSERT_EQ(states_.acc[state * dim + d], 0);
            continue;
          }
          const double new_max = std::max(max, part_max);
          const double before = std::exp(max - new_max), now = std::exp(part_max - new_max);
          max = new_max, sum = sum * before + states_.sum[state] * now;
          for (int d = 0; d < dim; ++d) acc[d] = acc[d] * before + states_.acc[state * dim + d] * now;
        }
        SCOPED_TRACE(testing::Message() << "row " << row << ", head " << h);
        if (expected.seen == 0) {
          ASSERT_EQ(sum, 0);
          continue;
        }
        const double score_error =
            (2 * dim + 3) * kEpsilon * expected.score_magnitude + 2 * kEpsilon * std::abs(expected.max);
        ASSERT_NEAR(max, expected.max, score_error);
        const double factor = 2 * score_error + 4 * kEpsilon * std::abs(expected.max) +
                              (expected.seen / 16.0 + 4) * 8 * kEpsilon + 2 * expected.seen * kEpsilon;
        ASSERT_NEAR(sum, expected.sum, factor * expected.sum);
        const double lost = layout.dtype == DType::kF16 ? 0x1p-25 * expected.seen : 0;
        for (int d = 0; d < dim; ++d) {
          ASSERT_NEAR(acc[d], expected.acc[d], (factor + rounding) * expected.acc_magnitude[d] + lost + 1e-30)
              << "dim " << d;
        }
      }
    }
  }

  void Check(const Batch& batch) {
    SCOPED_TRACE(testing::Message() << DTypeName(batch.layout.dtype) << ", head_dim " << batch.layout.head_dim
                                    << ", " << batch.layout.kv_heads << " KV heads of " << batch.group
                                    << ", block " << batch.layout.block_tokens << ", window " << batch.window
                                    << ", " << batch.positions.size() << " rows, first span "
                                    << batch.spans[0].tokens << " from " << batch.spans[0].first_position);
    const Numbers numbers = Draw(batch);
    Run(batch, numbers);
    if (!HasFatalFailure()) ExpectMatches(batch, numbers);
  }

  // One sequence whose rows are consecutive from `position`.
  Batch OneSequence(const KvLayout& layout, int group, int rows, int tokens, int first, int position) {
    Batch batch{layout, group};
    batch.scale = 1.0f / std::sqrt(static_cast<float>(layout.head_dim));
    batch.positions.resize(rows);
    std::iota(batch.positions.begin(), batch.positions.end(), position);
    std::vector<int32_t> all(rows);
    std::iota(all.begin(), all.end(), 0);
    batch.spans = {{tokens, first, all}};
    return batch;
  }

  AttentionSchedule schedule_;
  States states_;
};

TEST_P(GpuPartialAttentionTest, ThePlainPathTakesAnyTypeAndWidth) {
  for (int round = 0; round < 6; ++round) {
    KvLayout layout;
    layout.dtype = kAllDTypes[round % 3];
    layout.head_dim = layout.dtype == DType::kF32 ? Pick(random(), {8, 64, 80}) : Pick(random(), {8, 24, 72});
    layout.kv_heads = Pick(random(), {1, 2}), layout.block_tokens = Pick(random(), {1, 16, 48});
    const int tokens = Pick(random(), {1, 31, 33, 130, 300}), first = Pick(random(), {0, 1000});
    // Before the span, inside, just behind, far behind.
    const int position =
        std::max(0, first + Pick(random(), {-2, 0, tokens / 2, tokens - 1, tokens + 40, tokens + 5000}));
    Batch batch =
        OneSequence(layout, Pick(random(), {1, 3, 8}), Pick(random(), {1, 2, 19}), tokens, first, position);
    batch.window = Pick(random(), {0, 0, 1, 7, 130});
    batch.scale *= Pick(random(), {1, 6, 1000});
    Check(batch);
    if (HasFatalFailure()) return;
  }
}

TEST_P(GpuPartialAttentionTest, DecodeTakesEveryFastShape) {
  for (int round = 0; round < 8; ++round) {
    KvLayout layout;
    layout.dtype = round % 2 == 0 ? DType::kBF16 : DType::kF16;
    layout.head_dim = std::vector<int>{64, 80, 96, 128}[round / 2];
    layout.kv_heads = Pick(random(), {1, 2}), layout.block_tokens = Pick(random(), {16, 32, 48});
    // Around tiles of 16 keys, rounds of 64, parts of 128.
    const int tokens = Pick(random(), {1, 15, 16, 17, 63, 65, 127, 128, 129, 300});
    const int first = Pick(random(), {0, 1000});
    const int position = std::max(0, first + Pick(random(), {-1, tokens / 2, tokens - 1, tokens + 5000}));
    const int group = Pick(random(), {1, 3, 4, 8, 12});
    const int rows = group > 8 ? 2 : Pick(random(), {1, 2, 4});
    Batch batch = OneSequence(layout, group, rows, tokens, first, position);
    batch.window = Pick(random(), {0, 0, 1, 20, 130});
    batch.scale *= Pick(random(), {1, 6, 1000});
    Check(batch);
    if (HasFatalFailure()) return;
    ASSERT_EQ(schedule_.work_count[static_cast<int>(AttentionKernel::kDecode)], schedule_.work.size());
  }
}

TEST_P(GpuPartialAttentionTest, TilesTakeEveryFastShape) {
  for (int round = 0; round < 3; ++round) {
    KvLayout layout;
    layout.dtype = (GetParam() + round) % 2 == 0 ? DType::kBF16 : DType::kF16;
    layout.head_dim = std::vector<int>{64, 80, 96, 128}[(GetParam() + round) % 4];
    layout.kv_heads = Pick(random(), {1, 2}), layout.block_tokens = Pick(random(), {16, 32, 48});
    // Around tiles of 32 keys, and parts of 256.
    const int tokens = Pick(random(), {1, 31, 33, 100, 255, 257}), first = Pick(random(), {0, 1000});
    const int group = Pick(random(), {1, 3, 7, 48}), rows = Pick(random(), {33, 48});
    // Prefill of the span's last rows; rows of which some are before the span; rows behind it.
    const int position =
        std::max(0, first + Pick(random(), {tokens - rows, -rows / 2, tokens / 2, tokens + 5000}));
    Batch batch = OneSequence(layout, group, group == 48 ? 3 : rows, tokens, first, position);
    batch.window = Pick(random(), {0, 0, 1, 40, 130});
    batch.scale *= Pick(random(), {1, 6, 1000});
    Check(batch);
    if (HasFatalFailure()) return;
    ASSERT_EQ(schedule_.work_count[static_cast<int>(AttentionKernel::kTiles)], schedule_.work.size());
  }
}

// A tree: a prefix that all read, one that some read, own spans; a sequence in prefill; one with nothing. The
// lengths are those that Hydragen's authors test with, in part (papers: 1 to 129 keys).
TEST_P(GpuPartialAttentionTest, SpansOfOneRowMergeToAttentionOverAllOfThem) {
  Batch batch{{DType::kBF16, 2, 64, 16}, 4};
  batch.scale = 0.125f;
  const int prefix = Pick(random(), {3, 129, 300}), branch = 7;
  const std::vector<int> own = {9, 10, 11, 4, 129, 1};
  for (const int tokens : own) batch.positions.push_back(prefix + branch + tokens - 1);
  batch.spans = {{prefix, 0, {5, 0, 1, 2, 3, 4}, true}, {branch, prefix, {4, 0, 5, 2, 1, 3}, true}};
  for (int row = 0; row < 6; ++row) batch.spans.push_back({own[row], prefix + branch, {row}});
  std::vector<int32_t> chunk;
  for (int i = 0; i < 12; ++i) {
    chunk.push_back(static_cast<int32_t>(batch.positions.size()));
    batch.positions.push_back(20 + i);
  }
  batch.spans.push_back({32, 0, chunk});
  batch.positions.push_back(0);
  batch.spans.push_back({0, 0, {18}});
  Check(batch);
}

// One row over one span: the same bits alone and among others, which read the same span or do not.
TEST_P(GpuPartialAttentionTest, ARowsBitsDoNotDependOnItsBatch) {
  for (const bool shared : {false, true}) {
    Batch batch{{DType::kBF16, 1, 64, 16}, 2};
    batch.scale = 0.7f;
    const int tokens = 300;
    for (int i = 0; i < 40; ++i) batch.positions.push_back(shared ? tokens + i : tokens - 40 + i);
    std::vector<int32_t> all(shared ? 40 : 4);
    std::iota(all.begin(), all.end(), 0);
    batch.spans = {{tokens, 0, all, shared}, {129, 0, {7}}, {33, 400, {8}}};
    Numbers numbers = Draw(batch);
    Run(batch, numbers);
    const States among = states_;
    const std::vector<int32_t> begin = schedule_.merge_begin, ids = schedule_.merge_states;
    Batch alone = batch;
    alone.spans = {{tokens, 0, {2}, shared}};
    Run(alone, numbers);
    ASSERT_GT(schedule_.merge_begin[3], 1);  // more parts than one
    for (int i = 0; i < schedule_.merge_begin[3]; ++i) {
      const size_t one = schedule_.merge_states[i] * 2, other = ids[begin[2] + i] * 2;
      for (size_t h = 0; h < 2; ++h) {
        ASSERT_EQ(states_.max[one + h], among.max[other + h]);
        ASSERT_EQ(states_.sum[one + h], among.sum[other + h]);
        for (int d = 0; d < 64; ++d)
          ASSERT_EQ(states_.acc[(one + h) * 64 + d], among.acc[(other + h) * 64 + d]) << d;
      }
    }
  }
}

TEST(AttentionTiles, RowsOfAMatrixLieInDifferentBanks) {
  for (const int head_dim : {64, 80, 96, 128}) {
    unsigned groups = 0;
    for (int row = 0; row < 8; ++row) groups |= 1u << row * PaddedRow(head_dim) / 8 % 8;
    EXPECT_EQ(groups, 0xffu) << head_dim;
    EXPECT_GE(PaddedRow(head_dim), head_dim);
  }
}

LOMBARD_FOR_EVERY_GPU_SEED(GpuPartialAttentionTest);

}  // namespace
}  // namespace lombard
