// The progress line of `lombard generate`: one line on a terminal, redrawn in place; nothing at all in a pipe
// or file.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace lombard {

struct ProgressState {
  uint64_t requests_done = 0, requests_total = 0;
  double tokens_per_s = 0;  // generated, over the run or a window: the caller's choice
  struct KvUse {
    uint64_t used_tokens = 0, capacity_tokens = 0;
  };
  std::vector<KvUse> ranks;
  uint64_t tokens_lent = 0;  // now, in the whole cluster
};

// "[=====>    ] 3/8 requests  51.2 tokens/s  KV 12% 80% 3% 0%  lent 4096 tokens", cut to at most `columns`
// characters.
std::string FormatProgress(const ProgressState& state, int columns);

// One thread at a time.
class ProgressLine {
 public:
  // Draws on `out` (not owned) when it is a terminal.
  explicit ProgressLine(std::FILE* out);
  ~ProgressLine();  // ends the line, if one was begun

  bool visible() const { return visible_; }  // false: the caller may skip gathering the state
  // At most ten times a second; cheap otherwise.
  void Update(const ProgressState& state, absl::Time now);
  // Takes the line away, so that other text can be printed.
  void Clear();

 private:
  std::FILE* out_;
  bool visible_;
  bool drawn_ = false;
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace lombard
