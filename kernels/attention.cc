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
constexpr int kRowsOfManyHeads = 16;  // query rows of a KV head, up to which memory is the limit: a guess
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
  int heads_per_task = 1;
  std::vector<int> order;  // [dp], which element of a head the kernel's q and acc hold where; see AttendPart
  std::vector<int> begin, end;  // [rows], the keys each row sees
  bool split;                   // parts are tasks of their own, folded at the end
  int64_t states_offset;        // of part 0, in the shared memory of split items
};

struct Task {
  int item, kv_head, heads, row_begin, row_end, part_begin, part_end;
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

// Queries of the task's KV heads, [heads, rows, group, dp].
void GatherQueries(const KernelTable& kernels, const Item& item, const Task& task, float* q) {
  const AttentionArgs& args = *item.args;
  const int head_dim = args.layout.head_dim;
  float* const first = q;
  for (int head = task.kv_head; head < task.kv_head + task.heads; ++head) {
    for (int r = task.row_begin; r < task.row_end; ++r) {
      for (int g = 0; g < item.group; ++g, q += item.dp) {
        const float* src = args.q + (int64_t{r} * args.q_heads + head * item.group + g) * head_dim;
        for (int i = 0; i < item.dp; ++i) q[i] = item.order[i] < head_dim ? src[item.order[i]] : 0;
      }
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
  const int64_t rows = int64_t{std::min(item.rows_per_task, item.args->rows)} * item.group;
  const int64_t heads = item.heads_per_task;
  return heads * (rows * item.dp + 2 * States::Floats(rows, item.dp)) +
         internal::AttendScratchFloats(item.dp, heads, rows);
}

void RunTask(const KernelTable& kernels, const Item& item, const Task& task, float* split_states,
             float* scratch) {
  const AttentionArgs& args = *item.args;
  const KvLayout& layout = args.layout;
  const int rows = task.row_end - task.row_begin, q_rows = rows * item.group, dp = item.dp;
  const int64_t state_floats = States::Floats(q_rows, dp);
  float* const q = scratch;
  GatherQueries(kernels, item, task, q);
  float* const part_states = q + int64_t{task.heads} * q_rows * dp;
  float* const totals = part_states + task.heads * state_floats;
  const auto total = [&](int head) { return States(totals + head * state_floats, q_rows, dp); };

  AttendPart part;
  part.q = q;
  part.begin = item.begin.data() + task.row_begin;
  part.end = item.end.data() + task.row_begin;
  part.rows = rows;
  part.group = item.group;
  part.few = args.rows * item.group <= internal::kFewAttendRows;
  part.scale = args.scale;
  part.head_dim = layout.head_dim;
  part.dp = dp;
  part.block_tokens = layout.block_tokens;
  part.head_stride = int64_t{layout.block_tokens} * layout.head_dim;
  part.head_offset = task.kv_head * part.head_stride;
  part.heads = task.heads;
  part.state_stride = state_floats;
  part.k_blocks = args.k_blocks;
  part.v_blocks = args.v_blocks;
  part.scratch = totals + task.heads * state_floats;

  for (int head = 0; !item.split && head < task.heads; ++head) {
    std::fill(total(head).acc, total(head).acc + int64_t{q_rows} * dp, 0.0f);
    std::fill(total(head).max, total(head).max + q_rows, -std::numeric_limits<float>::infinity());
    std::fill(total(head).sum, total(head).sum + q_rows, 0.0f);
  }
  for (int i = task.part_begin; i < task.part_end; ++i) {
    part.part_begin = i * kPartTokens;
    part.part_end = std::min(args.token_count, part.part_begin + kPartTokens);
    float* out = part_states;
    if (item.split) {
      const int64_t index = int64_t{i} * layout.kv_heads + task.kv_head;
      out = split_states + item.states_offset + index * state_floats;
    }
    const States first(out, q_rows, dp);
    part.acc = first.acc, part.max = first.max, part.sum = first.sum;
    kernels.attend[static_cast<int>(layout.dtype)](part);
    for (int head = 0; !item.split && head < task.heads; ++head) {
      const States one(out + head * state_floats, q_rows, dp), sum = total(head);
      for (int qi = 0; qi < q_rows; ++qi) {
        kernels.fold(one.acc + int64_t{qi} * dp, one.max[qi], one.sum[qi], sum.acc + int64_t{qi} * dp,
                     sum.max + qi, sum.sum + qi, dp);
      }
    }
  }
  for (int head = 0; !item.split && head < task.heads; ++head) {
    const States sum = total(head);
    for (int qi = 0; qi < q_rows; ++qi) {
      Scatter(item, task.kv_head + head, task.row_begin + qi / item.group, qi % item.group,
              sum.acc + int64_t{qi} * dp, sum.max[qi], sum.sum[qi]);
    }
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

// Where a row's result does not depend on it: how many KV heads a task reads side by side. As many as the
// kernel likes, while every thread gets four tasks.
void ChooseHeads(const KernelTable& kernels, int threads, std::vector<Item>& items) {
  for (int limit = 64; limit > 1; limit /= 2) {
    int64_t tasks = 0;
    for (Item& item : items) {
      const KvLayout& layout = item.args->layout;
      const int rows = std::min(item.rows_per_task, item.args->rows) * item.group;
      const int most = rows > kRowsOfManyHeads ? 1 : kernels.attend_heads[static_cast<int>(layout.dtype)];
      const int pieces = (layout.kv_heads + std::min(limit, most) - 1) / std::min(limit, most);
      item.heads_per_task = (layout.kv_heads + pieces - 1) / pieces;
      tasks += int64_t{item.split ? item.parts : 1} *
               ((item.args->rows + item.rows_per_task - 1) / item.rows_per_task) * pieces;
    }
    if (tasks >= 4 * threads) return;
  }
  for (Item& item : items) item.heads_per_task = 1;
}

}  // namespace

void PartialAttention(const CpuContext& context, absl::Span<const AttentionArgs> args) {
  const KernelTable& kernels = internal::KernelsFor(context.isa);
  std::vector<Item> items;
  int64_t split_floats = 0;
  items.reserve(args.size());
  for (const AttentionArgs& one : args) {
    if (one.rows == 0) continue;
    Item item = Describe(one, kernels);
    item.split = item.parts > 1 && one.rows <= item.rows_per_task;
    item.states_offset = split_floats;
    if (item.split) {
      split_floats +=
          States::Floats(int64_t{one.rows} * item.group, item.dp) * one.layout.kv_heads * item.parts;
    }
    items.push_back(std::move(item));
  }
  ChooseHeads(kernels, internal::Threads(context), items);

  std::vector<Task> tasks;
  std::vector<std::pair<int, int>> folds;  // (item, KV head)
  int64_t scratch_floats = 0;
  for (const Item& item : items) {
    const int index = static_cast<int>(&item - items.data()), rows = item.args->rows;
    const int kv_heads = item.args->layout.kv_heads;
    // By part first: a machine's threads then walk the span together, heads of a block side by side.
    for (int part = 0; part < (item.split ? item.parts : 1); ++part) {
      for (int row = 0; row < rows; row += item.rows_per_task) {
        const int row_end = std::min(rows, row + item.rows_per_task);
        for (int head = 0; head < kv_heads; head += item.heads_per_task) {
          tasks.push_back({index, head, std::min(item.heads_per_task, kv_heads - head), row, row_end, part,
                           item.split ? part + 1 : item.parts});
        }
      }
    }
    for (int head = 0; item.split && head < kv_heads; ++head) folds.emplace_back(index, head);
    scratch_floats = std::max(scratch_floats, TaskScratchFloats(item));
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
