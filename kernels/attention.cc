#include "kernels/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/internal/kernel_table.h"
#include "kernels/internal/parallel.h"

namespace lombard {
namespace {

using internal::AttendPart;
using internal::KernelTable;

// Spans are cut here, counted from their first key. A guess: long enough that the merge costs nothing, short
// enough that a 32 K context gives 32 pieces per KV head to spread.
constexpr int kPartTokens = 1024;
static_assert(kPartTokens % internal::kTileTokens == 0);
constexpr int kQueryRowsPerTask =
    96;  // query rows x heads of one group that share the widened keys of a tile

// States of `rows` query rows: acc [rows, dp], then max [rows], then sum [rows].
struct States {
  float* acc;
  float* max;
  float* sum;
  States(float* memory, int rows, int dp)
      : acc(memory), max(memory + int64_t{rows} * dp), sum(memory + int64_t{rows} * (dp + 1)) {}
  static int64_t Floats(int64_t rows, int dp) { return (rows * (dp + 2) + 15) / 16 * 16; }
};

struct Item {
  const AttentionArgs* args;
  int group, dp, parts, rows_per_task;
  std::vector<int> order;  // [dp], which element of a head the kernel's q and acc hold where; see AttendPart
  std::vector<int> begin, end;  // [rows], the keys each row sees
  bool split;                   // parts are tasks of their own, folded at the end
  int64_t states_offset;        // of part 0, in the shared memory of split items
};

struct Task {
  int item, kv_head, row_begin, row_end, part_begin, part_end;
};

Item Describe(const AttentionArgs& args, const KernelTable& kernels) {
  const KvLayout& layout = args.layout;
  CHECK(layout.kv_heads > 0 && layout.head_dim > 0 && layout.block_tokens > 0);
  CHECK_EQ(args.q_heads % layout.kv_heads, 0);
  CHECK(args.token_count >= 0 && args.rows >= 0 && args.window >= 0);
  Item item{&args};
  item.group = args.q_heads / layout.kv_heads;
  item.dp = (layout.head_dim + 31) / 32 * 32;
  const int half = kernels.attend_half[static_cast<int>(layout.dtype)];
  for (int i = 0; i < item.dp; ++i) {
    const int at = half == 0 ? 0 : i % (2 * half);
    item.order.push_back(half == 0 ? i : i - at + (at < half ? 2 * at : 2 * (at - half) + 1));
  }
  item.parts = (args.token_count + kPartTokens - 1) / kPartTokens;
  item.rows_per_task = std::max(1, kQueryRowsPerTask / item.group);
  for (int r = 0; r < args.rows; ++r) {
    CHECK(r == 0 || args.q_positions[r] >= args.q_positions[r - 1]) << "positions decrease at row " << r;
    const int64_t p = int64_t{args.q_positions[r]} - args.first_position;  // relative to the span
    const int64_t end = std::clamp<int64_t>(p + 1, 0, args.token_count);
    const int64_t begin = args.window == 0 ? 0 : std::clamp<int64_t>(p + 1 - args.window, 0, end);
    item.begin.push_back(static_cast<int>(begin));
    item.end.push_back(static_cast<int>(end));
  }
  return item;
}

// Queries of one KV head, [rows, group, dp].
void GatherQueries(const KernelTable& kernels, const Item& item, const Task& task, float* q) {
  const AttentionArgs& args = *item.args;
  const int head_dim = args.layout.head_dim;
  float* const first = q;
  for (int r = task.row_begin; r < task.row_end; ++r) {
    for (int g = 0; g < item.group; ++g, q += item.dp) {
      const float* src = args.q + (int64_t{r} * args.q_heads + task.kv_head * item.group + g) * head_dim;
      for (int i = 0; i < item.dp; ++i) q[i] = item.order[i] < head_dim ? src[item.order[i]] : 0;
    }
  }
  if (args.layout.dtype == DType::kBF16)
    kernels.round_to[static_cast<int>(DType::kBF16)](first, first, q - first);
}

// Row qi of `states` (rows of one task) to its place in the results.
void Scatter(const Item& item, int kv_head, int row, int g, const float* acc, float max, float sum) {
  const AttentionArgs& args = *item.args;
  const int64_t out = int64_t{row} * args.q_heads + kv_head * item.group + g;
  const int head_dim = args.layout.head_dim;
  for (int i = 0; i < item.dp; ++i) {
    if (item.order[i] < head_dim) args.acc[out * head_dim + item.order[i]] = acc[i];
  }
  args.max[out] = max;
  args.sum[out] = sum;
}

int64_t TaskScratchFloats(const Item& item) {
  const int64_t rows = int64_t{item.rows_per_task} * item.group;
  return rows * item.dp + 2 * States::Floats(rows, item.dp) + internal::AttendScratchFloats(item.dp, rows);
}

void RunTask(const KernelTable& kernels, const Item& item, const Task& task, float* split_states,
             float* scratch) {
  const AttentionArgs& args = *item.args;
  const KvLayout& layout = args.layout;
  const int rows = task.row_end - task.row_begin, q_rows = rows * item.group, dp = item.dp;
  float* q = scratch;
  GatherQueries(kernels, item, task, q);
  scratch += int64_t{q_rows} * dp;
  const States part_states(scratch, q_rows, dp), total(scratch + States::Floats(q_rows, dp), q_rows, dp);

  AttendPart part;
  part.q = q;
  part.begin = item.begin.data() + task.row_begin;
  part.end = item.end.data() + task.row_begin;
  part.rows = rows;
  part.group = item.group;
  part.scale = args.scale;
  part.head_dim = layout.head_dim;
  part.dp = dp;
  part.block_tokens = layout.block_tokens;
  part.head_offset = int64_t{task.kv_head} * layout.block_tokens * layout.head_dim;
  part.k_blocks = args.k_blocks;
  part.v_blocks = args.v_blocks;
  part.scratch = scratch + 2 * States::Floats(q_rows, dp);

  if (!item.split) {
    std::fill(total.acc, total.acc + int64_t{q_rows} * dp, 0.0f);
    std::fill(total.max, total.max + q_rows, -std::numeric_limits<float>::infinity());
    std::fill(total.sum, total.sum + q_rows, 0.0f);
  }
  for (int i = task.part_begin; i < task.part_end; ++i) {
    part.part_begin = i * kPartTokens;
    part.part_end = std::min(args.token_count, part.part_begin + kPartTokens);
    States out = part_states;
    if (item.split) {
      const int64_t index = int64_t{i} * layout.kv_heads + task.kv_head;
      out = States(split_states + item.states_offset + index * States::Floats(q_rows, dp), q_rows, dp);
    }
    part.acc = out.acc, part.max = out.max, part.sum = out.sum;
    kernels.attend[static_cast<int>(layout.dtype)](part);
    if (item.split) continue;
    for (int qi = 0; qi < q_rows; ++qi) {
      kernels.fold(out.acc + int64_t{qi} * dp, out.max[qi], out.sum[qi], total.acc + int64_t{qi} * dp,
                   total.max + qi, total.sum + qi, dp);
    }
  }
  if (item.split) return;
  for (int qi = 0; qi < q_rows; ++qi) {
    Scatter(item, task.kv_head, task.row_begin + qi / item.group, qi % item.group,
            total.acc + int64_t{qi} * dp, total.max[qi], total.sum[qi]);
  }
}

// The parts of one KV head of a split item, in order of position.
void FoldParts(const KernelTable& kernels, const Item& item, int kv_head, float* split_states, float* acc) {
  const AttentionArgs& args = *item.args;
  const int q_rows = args.rows * item.group, dp = item.dp;
  for (int qi = 0; qi < q_rows; ++qi) {
    float max = -std::numeric_limits<float>::infinity(), sum = 0;
    std::fill(acc, acc + dp, 0.0f);
    for (int i = 0; i < item.parts; ++i) {
      const int64_t index = int64_t{i} * args.layout.kv_heads + kv_head;
      const States part(split_states + item.states_offset + index * States::Floats(q_rows, dp), q_rows, dp);
      kernels.fold(part.acc + int64_t{qi} * dp, part.max[qi], part.sum[qi], acc, &max, &sum, dp);
    }
    Scatter(item, kv_head, qi / item.group, qi % item.group, acc, max, sum);
  }
}

}  // namespace

void PartialAttention(const CpuContext& context, absl::Span<const AttentionArgs> args) {
  const KernelTable& kernels = internal::KernelsFor(context.isa);
  std::vector<Item> items;
  std::vector<Task> tasks;
  std::vector<std::pair<int, int>> folds;  // (item, KV head)
  int64_t split_floats = 0, scratch_floats = 0;
  items.reserve(args.size());
  for (const AttentionArgs& one : args) {
    if (one.rows == 0) continue;
    Item item = Describe(one, kernels);
    const int index = static_cast<int>(items.size());
    item.split = item.parts > 1 && one.rows <= item.rows_per_task;
    item.states_offset = split_floats;
    if (item.split) {
      split_floats +=
          States::Floats(int64_t{one.rows} * item.group, item.dp) * one.layout.kv_heads * item.parts;
    }
    // By part first: a machine's threads then walk the span together, heads of a block side by side.
    for (int part = 0; part < (item.split ? item.parts : 1); ++part) {
      for (int row = 0; row < one.rows; row += item.rows_per_task) {
        const int row_end = std::min(one.rows, row + item.rows_per_task);
        for (int head = 0; head < one.layout.kv_heads; ++head) {
          tasks.push_back({index, head, row, row_end, part, item.split ? part + 1 : item.parts});
        }
      }
    }
    if (item.split) {
      for (int head = 0; head < one.layout.kv_heads; ++head) folds.emplace_back(index, head);
    }
    scratch_floats = std::max(scratch_floats, TaskScratchFloats(item));
    items.push_back(std::move(item));
  }
  const internal::FloatBuffer split_states = internal::MakeFloats(split_floats);
  internal::ParallelForWithScratch(
      context, static_cast<int>(tasks.size()), scratch_floats, [&](int i, float* scratch) {
        RunTask(kernels, items[tasks[i].item], tasks[i], split_states.get(), scratch);
      });
  for (const auto& [index, head] : folds) {
    const internal::FloatBuffer acc = internal::MakeFloats(items[index].dp);
    FoldParts(kernels, items[index], head, split_states.get(), acc.get());
  }
}

void WriteKv(const CpuContext& context, const WriteKvArgs& args) {
  const KvLayout& layout = args.layout;
  const auto convert = internal::KernelsFor(context.isa).from_f32[static_cast<int>(layout.dtype)];
  const int64_t element_bytes = static_cast<int64_t>(DTypeBytes(layout.dtype));
  const auto write_row = [&](int r) {
    CHECK(args.slots[r] >= 0 && args.slots[r] < layout.block_tokens) << "slot " << args.slots[r];
    for (int h = 0; h < layout.kv_heads; ++h) {
      const int64_t offset =
          (int64_t{h} * layout.block_tokens + args.slots[r]) * layout.head_dim * element_bytes;
      convert(args.k + r * args.k_stride + h * layout.head_dim, static_cast<char*>(args.k_blocks[r]) + offset,
              layout.head_dim);
      convert(args.v + r * args.v_stride + h * layout.head_dim, static_cast<char*>(args.v_blocks[r]) + offset,
              layout.head_dim);
    }
  };
  if (args.rows >= 64) {
    internal::ParallelFor(context, args.rows, write_row);
  } else {
    for (int r = 0; r < args.rows; ++r) write_row(r);
  }
}

}  // namespace lombard
