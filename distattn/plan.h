// A step's attention as a value: which rows attend which spans, in order of position, and where the new KV
// goes.
//
// A span is a run of consecutive tokens of one sequence with one home. Who computes its state follows from
// its home: a local span here, a lent span at the creditor that holds it, from the query rows we send. The
// states are merged in order of position.
//
// A shared span is the common beginning of several sequences: their query rows are stacked, so that its keys
// are read once for all of them.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "base/ids.h"

namespace lombard {

struct LocalSpan {
  std::vector<BlockId> blocks;  // in order; tokens fill from slot 0 of the first
  int first_position = 0;
  int token_count = 0;  // includes this step's new tokens
};

struct LentSpan {
  LoanId loan{};
  uint64_t epoch = 0;
  int creditor = 0;         // rank
  uint32_t first_slot = 0;  // of the loan; the span's blocks lie in consecutive slots, all full
  int first_position = 0;
  int token_count = 0;
};

using AttentionSpan = std::variant<LocalSpan, LentSpan>;

// Rows of one sequence: consecutive in the step and at consecutive positions.
struct SequenceRows {
  int first_row = 0;
  int rows = 0;
  int first_position = 0;
  std::vector<AttentionSpan> spans;  // by position; disjoint; together all that the rows may see
};

// Local, and seen whole by every row of every reader.
struct SharedSpan {
  LocalSpan span;
  std::vector<int> readers;  // indices of AttentionPlan::sequences, ascending
};

struct KvTarget {
  BlockId block{};
  int slot = 0;
};

struct AttentionPlan {
  std::vector<SequenceRows> sequences;
  // By position for each reader, all before the reader's own spans. REQUIRES: no layer has a window.
  std::vector<SharedSpan> shared;
  std::vector<KvTarget> new_kv;  // [rows of the step]
  int rows() const { return static_cast<int>(new_kv.size()); }
};

// What executing a plan took: seconds, over all layers.
struct AttentionTiming {
  double local = 0, wait = 0, merge = 0, send = 0;
};

// The attention part of a model.
struct AttentionShape {
  int q_heads = 0;
  float scale = 1;
  std::vector<int> layer_windows;  // [layers], 0: full attention

  // What row at `position` may see under `window` starts here.
  static int FirstVisible(int position, int window) {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
};

}  // namespace lombard
