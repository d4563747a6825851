// What engine.cc and engine_memory.cc share and nobody else needs.
#pragma once

#include "runtime/engine/engine.h"

namespace lombard {

// `tokens` next tokens of a sequence in this step. `sequence` is valid while Find(id) finds it.
struct Engine::Row {
  Sequence* sequence = nullptr;
  RequestId id;
  uint32_t tokens = 0;
  // Its last token is the last known one, so the step chooses the next.
  bool samples() const { return sequence->computed + tokens == sequence->tokens.size(); }
};

// Blocks that become full in this step and leave layer by layer: consecutive slots of one loan.
struct Engine::StepExport {
  Sequence* sequence = nullptr;
  uint64_t transfer = 0;
  uint32_t run = 0;  // of the sequence's table
  uint32_t first_slot = 0;
  std::vector<BlockId> blocks;
};

}  // namespace lombard
