// Plans a step's attention on a GPU: once per step, on the host; every layer then runs the same schedule.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/attention_work.h"

namespace lombard {

// Some rows of the step attend one span.
struct AttentionItem {
  int32_t first_block = 0;  // the span's blocks are block_table[first_block, ...); tokens fill from slot 0
  int32_t token_count = 0;
  int32_t first_position = 0;
  std::vector<int32_t> rows;  // of the step, any order; those of several sequences for a shared prefix
  bool shared = false;        // the rows are of several sequences
  bool remote = false;        // somebody else computes the states; they get state rows, no work
};

// All arrays go to the device as they are (GpuAttentionTables).
struct AttentionSchedule {
  std::vector<AttentionWork> work;         // by kernel
  int work_count[kAttentionKernels] = {};  // of each
  std::vector<int32_t> rows;               // the items' rows, one after the other
  int32_t state_rows = 0;                  // of scratch that the states take
  // [items] first state row; a remote item's rows follow it. Those of remote items come first and in order,
  // so that what is brought for many of them is few copies.
  std::vector<int32_t> item_states;
  std::vector<int32_t> merge_begin;   // [step rows + 1] where a row's list begins in merge_states
  std::vector<int32_t> merge_states;  // state rows, in the order of items and of parts
};

// positions: [rows of the step]. Items must come in order of position for each row. An item without keys
// takes no state row.
AttentionSchedule PlanAttention(const KvLayout& layout, int q_heads, absl::Span<const int32_t> positions,
                                absl::Span<const AttentionItem> items);

}  // namespace lombard
