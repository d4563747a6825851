// The command line as plain structs. Parsing decides only what the line alone can decide (unknown flags,
// malformed values); files are opened by the commands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/config.h"
#include "absl/time/time.h"
#include "runtime/config/cluster_file.h"

namespace lombard {

// --device: a GPU, the CPUs, or a GPU where there is one.
enum class DeviceWish : uint8_t { kCpu, kCuda, kAuto };

// --kv-tokens / --kv-bytes: one value for every rank or one value per rank. At most one of the two lists is
// filled.
struct KvBudgetOptions {
  std::vector<uint64_t> tokens;
  std::vector<uint64_t> bytes;
};

// Instrumented code runs an order of magnitude slower.
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr absl::Duration kDeadAfter = absl::Seconds(10);
#else
constexpr absl::Duration kDeadAfter = absl::Seconds(1);
#endif

// What every command that runs workers takes. An unset optional leaves the choice to the cluster file, then
// to the default said here.
struct WorkerOptions {
  std::string model_dir;
  std::string cluster_file;  // empty: none

  KvBudgetOptions
      kv;  // both empty: cluster file, then half of the free memory divided by the ranks of the host
  std::optional<uint32_t> threads;        // cluster file, then cores of the host divided by its ranks
  std::optional<uint32_t> max_model_len;  // tokens; max_position_embeddings of the model
  uint32_t block_tokens = 32;             // 1 to 1024
  std::optional<Policy> policy;           // cluster file, then greedy
  std::string isa;                        // empty: the best this CPU has; one of IsaName()
  std::optional<DeviceWish> device;       // cluster file, then cpu
  bool cuda_graphs = true;                // on a GPU, decode steps are launched as graphs
  bool gpu_exchange = true;               // attention over loans goes from GPU to GPU where it can
  std::optional<bool> gpu_direct;         // KV moves from GPU to GPU without host memory; unset: where it can
  bool dummy_weights = false;             // --load-format dummy: only config.json and tokenizer are read
  double gpu_memory_utilization = 0.9;    // (0, 1]: share of a GPU's free memory that workers may fill
  uint32_t max_batch_tokens = 512;        // query tokens of one step: decodes first, then prefill chunks
  uint32_t max_batch_size = 256;          // sequences of one step

  bool prefix_cache = true;

  uint32_t in_process = 0;             // N > 0: N workers in this process over the loopback transport
  std::string ucx_profile;             // empty: chosen at start; see fabric/ucx/profile.h
  std::optional<uint32_t> rank, size;  // launcher-less start; both or none
  std::string rendezvous;              // host:port of rank 0's listener
  bool join = false;                   // a running job; needs rendezvous, may name its rank
  uint32_t size_max = 0;               // ranks that the job may grow to; 0: those it starts with
  std::string cluster_key_file;        // empty: no key
  std::string bind;                    // where rank 0 listens; empty: where the rendezvous says

  absl::Duration heartbeat = absl::Milliseconds(100);    // how often a worker reports to the global manager
  absl::Duration dead_after = kDeadAfter;                // a peer unheard for this long is lost
  absl::Duration claim_after = absl::Milliseconds(250);  // a request refused for this long gets a claim
  absl::Duration recovery_wait = absl::Seconds(60);      // for a worker, when those left are too small
  absl::Duration drain_wait = absl::Seconds(30);         // from SIGTERM until a worker leaves anyway
  absl::Duration start_timeout = absl::Seconds(120);     // until all ranks have met
  bool verbose = false;
};

struct GenerateOptions {
  WorkerOptions worker;
  std::string input, output;
  std::string report_dir;  // empty: no report.json
  bool resume = false;
  double rate = 0;  // requests given to the job per second; 0: all at once
  // For lines that do not say otherwise.
  uint32_t max_tokens = 16;
  double temperature = 0;
  std::optional<uint64_t> seed;
};

struct ModelCreateOptions {
  std::string preset, output;
  uint64_t seed = 0;
};
struct ModelInspectOptions {
  std::string dir;
};
struct ModelTokenizeOptions {
  std::string dir;
};
struct DoctorOptions {};

// Nothing to run: print `text` and exit with `code` (0: help or version, on standard output; 2: usage error,
// on standard error).
struct ExitRequest {
  int code = 0;
  std::string text;
};

using Command = std::variant<ExitRequest, GenerateOptions, ModelCreateOptions, ModelInspectOptions,
                             ModelTokenizeOptions, DoctorOptions>;

// Never throws, prints nothing. `version` is what --version says after the program's name.
Command ParseCommandLine(int argc, const char* const* argv, absl::string_view version);

}  // namespace lombard
