// What travels between simulated processes: control messages as they are, and the symbolic forms of queries,
// states and KV.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "fabric/messages/control.pb.h"

namespace lombard::sim {

// The KV of one token, symbolically: a hash of all tokens up to it. 0 = nothing, or poison.
using Cell = uint64_t;

using Control = std::shared_ptr<const messages::ControlMessage>;
struct Query {
  uint64_t exchange = 0;
  uint32_t part = 0;
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0, blocks = 0;
};
// The state of a query: what it covered.
struct State {
  uint64_t exchange = 0;
  uint32_t part = 0;
  bool refused = false;
  std::vector<Cell> cells;
};
struct KvWrite {
  uint64_t transfer = 0;
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0;
  std::vector<Cell> cells;
};
struct KvStored {
  uint64_t transfer = 0;
  LoanId loan{};
  bool refused = false;
};
struct KvRead {
  uint64_t transfer = 0;
  LoanId loan{};
  uint64_t epoch = 0;
  uint32_t first_slot = 0, blocks = 0;
};
struct KvData {
  uint64_t transfer = 0;
  LoanId loan{};
  uint32_t first_slot = 0;
  bool refused = false;
  std::vector<Cell> cells;
};
using Payload = std::variant<Control, Query, State, KvWrite, KvStored, KvRead, KvData>;

}  // namespace lombard::sim
