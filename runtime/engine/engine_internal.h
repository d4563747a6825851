// What engine.cc and engine_memory.cc share and nobody else needs.
#pragma once

#include "runtime/engine/engine.h"

namespace lombard {

// `tokens` next tokens of a sequence in this step. `sequence` is valid while Find(id) finds it.
struct Engine::Row {
  Sequence* sequence = nullptr;
  RequestId id;
  uint32_t tokens = 0;
  std::vector<BlockExport> exports;  // that leave with it
  // Its last token is the last known one, so the step chooses the next.
  bool samples() const { return sequence->computed() + tokens == sequence->tokens.size(); }
};

}  // namespace lombard
