// The cluster file: which instances there are and how they lend. YAML; every key is optional, an unknown key
// is an error, and every error names file, line and value. Flags win over the file.
//
//   instances:                    # in rank order
//     - ranks: 1                  # consecutive ranks that hold one replica
//       device: cpu               # cpu | cuda
//       threads: 2                # per rank
//       kv_tokens: 4096           # or kv_bytes: 64MiB; per rank
//       host: node1               # where it is expected to run
//   lending:
//     policy: greedy              # none | greedy; static and lombard are not in this version
//     reserve: 5%                 # share of its pool an instance keeps for its own requests
//     lent_max: 80%               # share of its pool it lends at most
//     plan_period: 200ms
//     decode_move_tokens: 16      # tokens a step may move in the background while decoding
//     guard: 5%                   # slowdown of a creditor's own requests that is tolerated
//   links:                        # otherwise measured
//     - {between: network, bandwidth: 10Gbit, latency: 50us}    # host: ranks of one host; network: of two
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lombard {

enum class DeviceKind : uint8_t { kCpu, kCuda };
enum class Policy : uint8_t { kNone, kStatic, kGreedy, kLombard };
enum class LinkScope : uint8_t { kHost, kNetwork };

absl::string_view PolicyName(Policy policy);
std::optional<Policy> PolicyFromName(absl::string_view name);

constexpr uint32_t kRanksMax = 65536;   // of a job
constexpr uint32_t kThreadsMax = 4096;  // of a rank

struct InstanceConfig {
  uint32_t ranks = 1;
  DeviceKind device = DeviceKind::kCpu;
  std::optional<uint32_t> threads;    // per rank
  std::optional<uint64_t> kv_tokens;  // per rank; at most one of the two is set
  std::optional<uint64_t> kv_bytes;   // per rank
  std::string host;                   // empty: any
};

struct LendingConfig {
  Policy policy = Policy::kGreedy;
  double reserve = 0.05;   // fraction
  double lent_max = 0.80;  // fraction
  absl::Duration plan_period = absl::Milliseconds(200);
  uint32_t decode_move_tokens = 16;  // 16 per step is free in Infinite-LLM's measurement, 32 costs 8.6 %
  double guard = 0.05;               // fraction
};

struct LinkConfig {
  LinkScope between = LinkScope::kNetwork;
  std::optional<double> bandwidth;  // bytes per second
  std::optional<absl::Duration> latency;
};

struct ClusterConfig {
  std::vector<InstanceConfig>
      instances;  // empty: every rank is an instance of its own with the flags' values
  LendingConfig lending;
  std::vector<LinkConfig> links;

  uint32_t RankCount() const;  // sum over instances; 0 when none are listed
};

// `name` stands for the file in errors ("name:line: ..."). kInvalidArgument.
absl::StatusOr<ClusterConfig> ParseClusterFile(absl::string_view text, const std::string& name);
// kNotFound or another code with the path when the file cannot be read.
absl::StatusOr<ClusterConfig> ReadClusterFile(const std::string& path);

}  // namespace lombard
