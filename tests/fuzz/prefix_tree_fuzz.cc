// Any bytes as a script of requests, insertions, withdrawals and evictions: the prefix tree and a plain map
// agree after every operation, and at the end every block is free again.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "tests/kvpool/prefix_tree_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CHECK_OK(lombard::RunPrefixTreeScript({data, size}));
  return 0;
}
