// What serving borrowed attention costs a creditor's own requests: their time per token with and without a
// long request next door that lives in its memory. Two ranks, each a process pinned to a core of its own.
//   both   the own load is equal on both ranks, with and without the long request. That slows the own
//          requests of its home, which then leave the creditor more of the memory's bandwidth
//   one    only the creditor has own requests
//
//   guard_bench MODEL_DIR [GUARD [ROUNDS [LONG_TOKENS]]]      default 0.05, 3, 3072
//
// A model with random weights will do (lombard model create --preset smollm2-135m). A round: the own
// requests without the long one; then the long one first, until it decodes, and the same beside it. The
// long request is older, so it keeps its loans when the creditor calls them back and there is nowhere to go,
// and is served within the guard.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_support.h"
#include "fabric/make_transport.h"
#include "runtime/generate/report.h"
#include "runtime/job/job.h"
#include "runtime/job/local_cluster.h"

namespace lombard {
namespace {

constexpr uint32_t kBlockTokens = 32, kOwnPrompt = 64, kOwnTokens = 150, kOwnRequests = 2, kLongOutput = 200;
constexpr int kPort = 24893;

struct Arguments {
  std::string model;
  double guard = 0.05;
  int rounds = 3;
  uint32_t long_tokens = 3072;
};

SamplingParams Greedy(uint32_t max_tokens) {
  SamplingParams sampling;
  sampling.max_tokens = max_tokens;
  sampling.temperature = 0;
  sampling.ignore_eos = true;
  return sampling;
}

// Differs by `number`, so that no prefix is shared.
std::vector<int32_t> Prompt(uint32_t tokens, uint32_t number, int vocabulary) {
  std::vector<int32_t> prompt;
  uint64_t x = 0x9e3779b97f4a7c15u * (number + 1);
  for (uint32_t i = 0; i < tokens; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    prompt.push_back(static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return prompt;
}

class Rounds {
 public:
  Rounds(Job* job, const Arguments& arguments, int vocabulary)
      : job_(job), arguments_(arguments), vocabulary_(vocabulary) {}

  void Run() {
    std::printf(
        "| round | own load | without: TPOT p50, p99, ms | with: p50, p99, ms | ratio of p50, of p99 |\n"
        "|---|---|---|---|---|\n");
    std::vector<double> p50[2], p99[2];
    for (int round = 1; round <= arguments_.rounds; ++round) {
      const Percentiles without[2] = {Own(true), Own(false)};
      const uint64_t before = job_->progress().tokens;
      const uint64_t longest = Submit(arguments_.long_tokens, kLongOutput, InstanceId{1});
      while (job_->progress().tokens < before + 3) usleep(20000);
      for (const int one : {0, 1}) {
        const Percentiles &a = without[one], b = Own(one == 0);
        p50[one].push_back(b.p50 / a.p50), p99[one].push_back(b.p99 / a.p99);
        std::printf("| %d | %s | %.2f, %.2f | %.2f, %.2f | %.3f, %.3f |\n", round, one == 0 ? "both" : "one",
                    1e3 * a.p50, 1e3 * a.p99, 1e3 * b.p50, 1e3 * b.p99, p50[one].back(), p99[one].back());
        std::fflush(stdout);
        if (!open_.contains(longest)) std::printf("the long request ended before the own ones\n");
      }
      while (!open_.empty()) Collect();
    }
    std::printf("guard %.2f; medians of the ratios: both %.3f, p99 %.3f; one %.3f, p99 %.3f\n",
                arguments_.guard, bench::Median(p50[0]), bench::Median(p99[0]), bench::Median(p50[1]),
                bench::Median(p99[1]));
  }

 private:
  uint64_t Submit(uint32_t prompt, uint32_t tokens, InstanceId home) {
    const auto number = job_->Submit(Prompt(prompt, ++prompts_, vocabulary_), Greedy(tokens), 0, {}, home);
    CHECK_OK(number.status());
    open_[*number] = home;
    return *number;
  }
  void Collect() {
    auto done = job_->Wait(absl::Milliseconds(50));
    CHECK_OK(done.status());
    for (SequenceResult& result : *done) {
      CHECK_OK(result.error);
      open_.erase(result.number);
      done_[result.number] = std::move(result);
    }
  }
  // Seconds between tokens of the creditor's own requests, once all decode.
  Percentiles Own(bool both) {
    std::vector<uint64_t> own;
    for (uint32_t i = 0; i < kOwnRequests; ++i) {
      own.push_back(Submit(kOwnPrompt, kOwnTokens, InstanceId{0}));
      if (both) Submit(kOwnPrompt, kOwnTokens, InstanceId{1});
    }
    const auto open = [&] {
      return std::any_of(own.begin(), own.end(), [&](uint64_t number) { return open_.contains(number); });
    };
    while (open()) Collect();
    std::vector<double> gaps;
    for (uint64_t number : own) {
      const std::vector<double>& at = done_.at(number).token_s;
      for (size_t i = 10; i < at.size(); ++i) gaps.push_back(at[i] - at[i - 1]);
    }
    return PercentilesOf(gaps);
  }

  Job* const job_;
  const Arguments& arguments_;
  const int vocabulary_;
  uint32_t prompts_ = 0;
  std::map<uint64_t, InstanceId> open_;
  std::map<uint64_t, SequenceResult> done_;
};

void RunRank(int rank, const Arguments& arguments) {
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(rank, &core);
  CHECK_EQ(sched_setaffinity(0, sizeof(core), &core), 0) << "core " << rank;
  auto model = Model::Load(arguments.model);
  CHECK_OK(model.status());
  auto tokenizer = Tokenizer::Load(arguments.model);
  CHECK_OK(tokenizer.status());
  auto bootstrap = MakeEnvironmentBootstrap(
      {.rank = rank, .size = 2, .rendezvous = absl::StrCat("127.0.0.1:", kPort), .job = "guard"});
  CHECK_OK(bootstrap.status());
  auto fabric = MakeUcxTransport(**bootstrap, {});
  CHECK_OK(fabric.status());
  const uint32_t all = (arguments.long_tokens + kLongOutput + 2048) / kBlockTokens;
  WorkerSettings settings;
  settings.engine.block_tokens = kBlockTokens;
  settings.engine.max_model_len = arguments.long_tokens + kLongOutput + 1;
  settings.isa = DetectIsa();
  settings.kv_blocks = {2 * all, 1024 / kBlockTokens};
  settings.process = static_cast<uint64_t>(getpid());
  settings.guard = arguments.guard;
  settings.gmanager.instances = 2;
  settings.gmanager.plan.block_tokens = kBlockTokens;
  const MonotonicClock clock;
  Job job(RouterInstances(settings), &clock);
  auto worker = Worker::Create(settings, model->get(), tokenizer->get(), fabric->transport.get(), &clock,
                               rank == 0 ? &job : nullptr);
  CHECK_OK(worker.status());
  job.Attach(worker->get());
  (*worker)->Start();
  if (rank == 0) {
    Rounds(&job, arguments, (*model)->config().vocab_size).Run();
    auto reports = job.End(absl::Seconds(60));
    CHECK_OK(reports.status());
    std::printf("loans granted %u, recalled %u; steps of the creditor %u, served steps %u\n",
                static_cast<unsigned>((*reports)[0].loans_granted()),
                static_cast<unsigned>((*reports)[0].loans_recalled()),
                static_cast<unsigned>((*reports)[0].steps()),
                static_cast<unsigned>((*reports)[0].served_steps()));
    std::fflush(stdout);
  }
  CHECK_OK((*worker)->Join());
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  using namespace lombard;
  if (argc < 2) {
    std::fprintf(stderr, "usage: guard_bench MODEL_DIR [GUARD [ROUNDS [LONG_TOKENS]]]\n");
    return 2;
  }
  Arguments arguments{.model = argv[1]};
  if (argc > 2) arguments.guard = std::atof(argv[2]);
  if (argc > 3) arguments.rounds = std::atoi(argv[3]);
  if (argc > 4) arguments.long_tokens = static_cast<uint32_t>(std::atoi(argv[4]));
  bench::PrintMachine(ThreadPool(1));
  std::fflush(stdout);
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      RunRank(rank, arguments);
      _exit(0);
    }
    ranks.push_back(child);
  }
  bool ok = true;
  for (const pid_t rank : ranks) {
    int status = 0;
    waitpid(rank, &status, 0);
    ok = ok && status == 0;
  }
  return ok ? 0 : 1;
}
