// Messages between ranks of this host: half a round trip, and one-way bandwidth, by message size, over
// loopback, shared memory and tcp.
//
//   fabric_bench [TRANSPORT...]     of loopback, shm, tcp; default all. UCX_* settings of the environment
//   apply.
//
// Ranks come in pairs that talk at the same time: 2 ranks, one pair; 4 ranks, two pairs, on more ranks than
// cores perhaps. One thread per rank polls and answers from the handler's queue; a worker that hands messages
// to another thread adds a wake-up.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/bench_support.h"
#include "fabric/loopback_transport.h"
#include "fabric/make_transport.h"

namespace lombard {
namespace {

constexpr size_t kSizes[] = {8, 8 << 10, 64 << 10, 1 << 20};
constexpr int kSamples = 21;
constexpr int kPort = 24871;

class Rank final : public TransportHandler {
 public:
  explicit Rank(Transport& transport) : transport_(transport), partner_(transport.rank() ^ 1) {}

  void Run(const std::string& name) {
    for (const size_t bytes : kSizes) {
      const int rounds = bytes <= (64 << 10) ? 50 : 5,
                burst = static_cast<int>(std::clamp<size_t>((16 << 20) / bytes, 8, 256));
      RoundTrips(bytes, rounds);  // warm
      std::vector<double> half_us, gb_per_s;
      for (int i = 0; i < kSamples; ++i) half_us.push_back(RoundTrips(bytes, rounds) / (2 * rounds) * 1e6);
      for (int i = 0; i < kSamples; ++i)
        gb_per_s.push_back(burst * static_cast<double>(bytes) / Burst(bytes, burst) * 1e-9);
      std::sort(half_us.begin(), half_us.end());
      std::sort(gb_per_s.begin(), gb_per_s.end());
      if (transport_.rank() != 0) continue;
      std::printf("| %s | %d | %zu | %.1f (%.1f to %.1f) | %.2f |\n", name.c_str(), transport_.size(), bytes,
                  half_us[kSamples / 2], half_us.front(), half_us.back(), gb_per_s[kSamples / 2]);
      std::fflush(stdout);
    }
    transport_.Close(absl::Seconds(5));
  }

  void OnMessage(int, Message message) override {
    last_ = std::move(message);
    ++got_;
  }
  void OnPeerDown(int peer, const absl::Status& why) override {
    if (!why.ok()) std::fprintf(stderr, "rank %d: %s\n", peer, why.ToString().c_str());
    lost_ = !why.ok();
  }

 private:
  void Await(int count) {
    for (wanted_ += count; got_ < wanted_ && !lost_;) transport_.Poll(*this, absl::Seconds(1));
    if (lost_) exit(1);
  }
  void Send(Message message) {
    if (const absl::Status status = transport_.Send(partner_, std::move(message)); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      exit(1);
    }
  }
  // Seconds. The message goes back as it came, so that no copy but the transport's own is measured.
  double RoundTrips(size_t bytes, int rounds) {
    const bool first = transport_.rank() % 2 == 0;
    if (first) last_ = {Channel::kQuery, "", std::string(bytes, 'b')};
    const absl::Time start = absl::Now();
    for (int i = 0; i < rounds; ++i) {
      if (first) Send(std::move(last_));
      Await(1);
      if (!first) Send(std::move(last_));
    }
    return absl::ToDoubleSeconds(absl::Now() - start);
  }
  // Seconds from the first message to the answer to the last.
  double Burst(size_t bytes, int count) {
    if (transport_.rank() % 2 != 0) {
      Await(count);
      Send({Channel::kControl, "", "done"});
      return 1;
    }
    std::vector<std::string> payloads(count, std::string(bytes, 'b'));
    const absl::Time start = absl::Now();
    for (std::string& payload : payloads) Send({Channel::kKv, "", std::move(payload)});
    Await(1);
    return absl::ToDoubleSeconds(absl::Now() - start);
  }

  Transport& transport_;
  const int partner_;
  int64_t got_ = 0, wanted_ = 0;
  bool lost_ = false;
  Message last_;
};

void Loopback(int ranks) {
  const auto transports = MakeLoopbackTransports(ranks);
  std::vector<std::thread> threads;
  for (const auto& transport : transports)
    threads.emplace_back([&transport] { Rank(*transport).Run("loopback"); });
  for (auto& thread : threads) thread.join();
}

// In processes of their own, as UCX sees one process's transports differently.
bool Processes(const std::string& name, const char* transports, int ranks, int port) {
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      setenv("UCX_TLS", transports, /*overwrite=*/1);
      auto bootstrap = MakeEnvironmentBootstrap(
          {.rank = rank, .size = ranks, .rendezvous = absl::StrCat("127.0.0.1:", port), .job = name});
      auto fabric = bootstrap.ok() ? MakeUcxTransport(**bootstrap, {}) : bootstrap.status();
      if (!fabric.ok()) {
        std::fprintf(stderr, "%s\n", fabric.status().ToString().c_str());
        _exit(1);
      }
      Rank(*fabric->transport).Run(name);
      _exit(0);
    }
    children.push_back(child);
  }
  bool ok = true;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    ok = ok && status == 0;
  }
  return ok;
}

}  // namespace
}  // namespace lombard

int main(int argc, char** argv) {
  using namespace lombard;
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names = {"loopback", "shm", "tcp"};
  bench::PrintMachine(ThreadPool(1));
  std::printf(
      "| transport | ranks | bytes | half round trip, us: median of %d (smallest to largest) | one way, GB/s "
      "|\n|---|---|---|---|---|\n",
      kSamples);
  std::fflush(stdout);
  bool ok = true;
  int port = kPort;
  for (const std::string& name : names) {
    for (const int ranks : {2, 4}) {
      if (name == "loopback") {
        Loopback(ranks);
      } else if (name == "shm" || name == "tcp") {
        ok = Processes(name, name == "shm" ? "self,posix,sysv" : "self,tcp", ranks, port++) && ok;
      } else {
        std::fprintf(stderr, "fabric_bench: no transport '%s'; there are loopback, shm and tcp\n",
                     name.c_str());
        return 2;
      }
    }
  }
  return ok ? 0 : 1;
}
