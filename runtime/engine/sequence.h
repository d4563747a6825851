// One sequence on its way: what was asked, what was generated, where its KV lies. A request with n samples is
// n sequences.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/ids.h"
#include "kvpool/block_table.h"
#include "kvpool/prefix_tree.h"
#include "rmanager/loans.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/stop_checker.h"

namespace lombard {

// What the front door asks of an instance.
struct SequenceRequest {
  RequestId id;
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;  // generated already, elsewhere: only what follows is wanted
  SamplingParams sampling;
  uint32_t sample_index = 0;  // of n
  std::string cache_salt;     // KV is shared only between requests of equal salt
  // Another instance that likely has so many of the first tokens in its prefix cache. Advice.
  struct PrefixHint {
    InstanceId holder{};
    uint32_t tokens = 0;
  };
  std::optional<PrefixHint> prefix;
  std::optional<LostHome> lost_home;  // where it ran last
};

// What the instance says of it, in order. The last one has `finished`.
struct SequenceOutput {
  RequestId id;
  std::optional<int32_t> token;
  uint32_t index = 0;      // of the token, in the output
  bool recovered = false;  // the first token after KV or its home was lost
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top_logprobs;
  bool finished = false;
  std::string finish_reason;  // "stop" or "length", when finished
  std::string text;           // all of it, when finished
  absl::Status error;         // not OK: finished without (further) result
};

// Full blocks on their way to consecutive slots of a loan. They flip when all are stored.
struct BlockExport {
  uint64_t transfer = 0;
  std::vector<BlockTable::Transit> blocks;
};

using BlockImport = BlockExport;  // from consecutive slots back

// A loan that is being taken home.
struct LoanReturn {
  LoanId loan{};
  absl::Time begin, deadline;
  uint32_t blocks = 0;   // that it held when it began
  uint32_t started = 0;  // of these, those on their way or here
  bool stopped = false;  // something did not come; rmanager will know why
};

// A planner's move under way: old blocks go to a loan so that this instance's pool gets them back.
struct BlockMove {
  uint64_t plan_id = 0;
  std::optional<uint64_t> ticket;  // set until the destination has answered
  uint32_t blocks = 0, moved = 0;
};

// The sequence's first blocks, when they lie in another instance's prefix cache, or were lent there whole.
struct PrefixElsewhere {
  LoanId loan{};
  uint64_t name = 0;  // of the last block (kvpool/block_hash.h)
  uint32_t blocks = 0;
  bool lent = false;  // to have the memory: it stays there, until it is called back
};

// The prefix that another instance is computing, as it said last.
struct PrefixComing {
  uint32_t blocks = 0;  // that were there
  absl::Time since;     // when so many were there first
};

enum class SequencePhase : uint8_t {
  kWaiting,    // no memory held
  kAdopting,   // creditors of its lost home asked for what they hold over
  kBorrowing,  // local blocks taken, creditors asked
  kRunning,    // memory reserved; prefill until computed reaches the last token, then decode
};

struct Sequence {
  Sequence(SequenceRequest r, uint32_t block_tokens, const Tokenizer* tokenizer,
           absl::Span<const int32_t> eos_ids)
      : request(std::move(r)),
        tokens(request.prompt),
        table(block_tokens),
        stop(tokenizer, request.sampling, eos_ids) {}

  SequenceRequest request;
  std::vector<int32_t> tokens;  // prompt and output
  BlockTable table;             // stores fewer than tokens.size() until finished
  StopChecker stop;

  std::optional<PrefixReader> reader;  // while it reads blocks of the prefix cache or may give it some
  bool shares = false;                 // gives its full blocks to the cache; needs a reader
  std::optional<PrefixElsewhere> elsewhere;
  std::optional<PrefixComing> coming;  // waits for it with nothing

  SequencePhase phase = SequencePhase::kWaiting;
  std::vector<BlockExport> exports;
  std::vector<BlockImport> imports;
  std::vector<LoanReturn> returns;

  std::optional<BlockMove> move;
  std::optional<uint64_t> ticket;  // of a borrowing under way (admission or growth)
  absl::Time retry_at = absl::InfinitePast();
  std::optional<absl::Time> blocked_since;  // first refusal of the memory it needs now
  uint32_t blocked_need = 0;                // blocks
  std::set<uint64_t> adoptions;             // tickets, of those not answered yet
  std::vector<uint64_t> names;              // of its full blocks, as far as they were wanted
  uint32_t preemptions = 0;
  uint32_t reached = 0;   // tokens computed; those below are computed again because a loan was lost
  bool recovers = false;  // KV was lost, or its home, and no token generated since
  bool finished = false;

  const RequestId& id() const { return request.id; }
  uint32_t computed() const { return table.computed(); }
  uint32_t prompt_size() const { return static_cast<uint32_t>(request.prompt.size()); }
  uint32_t output_size() const { return static_cast<uint32_t>(tokens.size() - request.prompt.size()); }
  uint32_t tokens_max() const { return prompt_size() + request.sampling.max_tokens; }
};

}  // namespace lombard
