// Which KV blocks should move where: a pure function of the cluster's state. Same inputs, same moves, on
// every machine: ties go to the smaller id; no clock, no randomness, no I/O. The moves are advice; the
// destination decides.
//
// Policy `greedy` is Algorithm 1 of Infinite-LLM: debtors (batch below theta_batch), smallest batch first,
// move blocks of their longest request to the creditor (memory use below theta_mem) with most room, as many
// as raise the sum of both sides' tokens per second most. The gain is not concave in the number of blocks
// (see planner_test), so every count is tried. "After" the move, requests that wait at the debtor fill the
// freed blocks. An instance is debtor or creditor in one round, never both.
//
// Every returned move is legal in the view alone and all of them together: at most `movable` blocks of a
// request leave, and at most `lendable` arrive.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/ids.h"
#include "gmanager/cost_model.h"

namespace lombard {

struct InstanceState {
  InstanceId id{};
  uint32_t blocks_total = 0, blocks_free = 0;
  uint32_t blocks_lendable = 0;  // what it would lend now
  uint32_t batch = 0;            // running requests
  uint32_t waiting = 0;          // requests that wait for memory
  double waiting_tokens = 0;     // their sum
  double own_tokens = 0;         // of own requests, lying here
  double hosted_tokens = 0;      // of other instances' requests
};

// Blocks of a request at one host. `home` runs it.
struct Placement {
  RequestId request;
  InstanceId home{}, host{};
  uint32_t blocks = 0;
  uint32_t movable = 0;  // full blocks with one reader, at home
  // Beside them, a prefix that `readers` requests of the home read, this one the oldest: it moves whole.
  uint32_t shared = 0, readers = 0;
};

struct ClusterState {
  uint64_t epoch = 0;
  std::vector<InstanceState> instances;  // ascending ids
  std::vector<Placement> placements;     // of long requests; ascending (request, host)
};

struct Move {
  RequestId request;
  InstanceId from{}, to{};
  uint32_t blocks = 0;
  uint32_t readers = 1;  // more: the blocks are a shared prefix
  double gain = 0;       // predicted tokens per second after / before, of both instances together
};

enum class PlanPolicy : uint8_t { kNone, kGreedy };

struct PlanOptions {
  PlanPolicy policy = PlanPolicy::kGreedy;
  uint32_t block_tokens = 32;
  double theta_batch = 0;  // 0 = the knee of the debtor's compute profile
  double theta_mem =
      0.8;  // a creditor uses less than this share of its pool; a guess, as in the paper's notes
  double gain_min = 1.02;           // below this a move is noise of the model; a guess
  uint32_t keep_local = 1;          // blocks of a request that stay at home
  uint32_t request_blocks_min = 2;  // shorter requests are left alone
  uint32_t move_blocks_max = 1u << 30;
  uint32_t moves_max = 16;
};

std::vector<Move> Plan(const ClusterState& state, const CostModel& cost, const PlanOptions& options);

// The sum of both instances' predicted tokens per second when `blocks` of `request` move from -> to (0 = as
// it is). For tests and for showing a plan. REQUIRES: both exist in `state`.
double PredictPair(const ClusterState& state, const CostModel& cost, const PlanOptions& options,
                   const Move& move);

}  // namespace lombard
