// One rank of a job, for tests that need processes: started by mpirun, or by hand with --rank, --size and
// --rendezvous.
//
//   fabric_rank ladder   the ladder over the fabric that production would make
//   fabric_rank death    the last rank kills itself while all exchange messages; the others notice, go on
//                        and end
//   fabric_rank stop     the last rank stops (SIGSTOP) with messages under way to it; the others close in
//                        bounded time
//
// Exit status 0 when all went well. Where the launcher hides it (mpirun --enable-recovery), a file rank.N
// appears in the folder LOMBARD_OUTCOME_DIR.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fabric/make_transport.h"
#include "tests/fabric/transport_ladder.h"

namespace lombard::test {
namespace {

[[noreturn]] void Fatal(const absl::Status& status) {
  std::fprintf(stderr, "fabric_rank: %s\n", std::string(status.message()).c_str());
  std::fflush(stderr);
  _exit(1);
}

// Says and records how this rank fared, and ends without any teardown.
[[noreturn]] void End(int rank, bool ok) {
  if (const char* folder = getenv("LOMBARD_OUTCOME_DIR"); ok && folder != nullptr)
    std::ofstream(absl::StrCat(folder, "/rank.", rank)) << "ok\n";
  std::fflush(nullptr);
  _exit(ok ? 0 : 1);
}

class RungTest : public testing::Test {
 public:
  RungTest(Peer& peer, void (*climb)(Peer&)) : peer_(peer), climb_(climb) {}
  void TestBody() override { climb_(peer_); }

 private:
  Peer& peer_;
  void (*const climb_)(Peer&);
};

class FailuresOnly : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::printf("%s:%d: %s\n", result.file_name(), result.line_number(), result.message());
  }
};

bool ClimbLadder(Transport& transport) {
  Peer peer(transport);
  for (const Rung& rung : Ladder()) {
    testing::RegisterTest(
        "Ladder", rung.name, nullptr, nullptr, __FILE__, __LINE__,
        [&peer, climb = rung.climb]() -> testing::Test* { return new RungTest(peer, climb); });
  }
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (transport.rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly);
  }
  return RUN_ALL_TESTS() == 0;
}

// Messages to all of the first `ranks`, each answered by nobody, at most a few unread at a time.
void Chat(Peer& me, int ranks, absl::Duration length) {
  for (const absl::Time end = absl::Now() + length; absl::Now() < end;
       absl::SleepFor(absl::Milliseconds(1))) {
    for (int to = 0; to < ranks; ++to)
      me.transport().Send(to, {Channel::kQuery, "chat", std::string(64 << 10, 'c')}).IgnoreError();
    for (int from = 0; from < ranks; ++from) me.Take(from, me.waiting(from));
  }
}

bool SurviveADeath(Transport& transport, absl::Duration before) {
  const int victim = transport.size() - 1;
  Peer me(transport);
  me.Barrier();
  if (transport.rank() == victim) {
    for (int from = 0; from < victim; ++from) me.Take(from, 1);  // so our barrier messages have left
  } else {
    me.MustSend(victim, Channel::kControl, "past the barrier", "");
  }
  Chat(me, transport.size(), before);
  if (transport.rank() == victim) kill(getpid(), SIGKILL);
  const absl::Time start = absl::Now();
  if (!me.WaitUntil([&] { return !me.downs(victim).empty(); })) return false;
  std::printf("rank %d: told within %.0f ms: %s\n", transport.rank(),
              absl::ToDoubleMilliseconds(absl::Now() - start), me.downs(victim)[0].ToString().c_str());
  // That its process has ended; or that the connection broke, where the kernel took long to end the process.
  const absl::Status why = me.downs(victim)[0];
  EXPECT_TRUE(absl::IsNotFound(why) || absl::IsUnavailable(why)) << why;
  EXPECT_EQ(transport.Send(victim, {}).code(), absl::StatusCode::kUnavailable);
  Chat(me, victim, absl::Milliseconds(400));
  me.Barrier(victim);
  EXPECT_EQ(me.downs(victim).size(), 1u) << "told once";
  me.StopPolling();
  transport.Close(kLongerThanTheTest);
  return !testing::Test::HasFailure();
}

bool CloseBesideAStoppedRank(Transport& transport, Bootstrap& bootstrap) {
  const int victim = transport.size() - 1;
  const auto pids = bootstrap.AllGather(absl::StrCat(getpid()), kLongerThanTheTest);
  if (!pids.ok()) Fatal(pids.status());
  Peer me(transport);
  me.Barrier();
  if (transport.rank() == victim) {
    for (int from = 0; from < victim; ++from) me.Take(from, 1);  // so our barrier messages have left
    raise(SIGSTOP);
    pause();
  }
  me.MustSend(victim, Channel::kControl, "stop now", "");
  absl::SleepFor(absl::Milliseconds(200));  // makes it likely that it has
  for (int i = 0; i < 16; ++i) me.MustSend(victim, Channel::kKv, "", std::string(1 << 20, 'k'));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(me.downs(victim).empty()) << "a stopped process is a matter for heartbeats";
  me.Barrier(victim);  // all have looked before rank 0 kills it
  me.StopPolling();
  const absl::Time start = absl::Now();
  transport.Close(absl::Seconds(2));
  std::printf("rank %d: closed within %.0f ms\n", transport.rank(),
              absl::ToDoubleMilliseconds(absl::Now() - start));
  int pid = 0;
  if (transport.rank() == 0 && absl::SimpleAtoi((*pids)[victim], &pid)) {
    absl::SleepFor(absl::Milliseconds(700));  // the others close meanwhile
    kill(pid, SIGKILL);
  }
  return !testing::Test::HasFailure();
}

}  // namespace
}  // namespace lombard::test

int main(int argc, char** argv) {
  using namespace lombard;
  testing::InitGoogleTest(&argc, argv);
  if (argc < 2)
    test::Fatal(absl::InvalidArgumentError(
        "usage: fabric_rank ladder|death|stop [--rank R --size N --rendezvous HOST:PORT]"));
  const std::string scenario = argv[1];
  BootstrapOptions options;
  options.deadline = test::kLongerThanTheTest;
  UcxOptions ucx_options;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--rank") options.rank = std::atoi(argv[i + 1]);
    if (flag == "--size") options.size = std::atoi(argv[i + 1]);
    if (flag == "--rendezvous") options.rendezvous = argv[i + 1];
    if (flag == "--ucx-profile") ucx_options.profile = argv[i + 1];
  }
  auto bootstrap = DetectBootstrap(options);
  if (!bootstrap.ok()) test::Fatal(bootstrap.status());
  auto fabric = MakeUcxTransport(**bootstrap, ucx_options);
  if (!fabric.ok()) test::Fatal(fabric.status());
  std::unique_ptr<Transport> transport = std::move(fabric->transport);
  const int rank = transport->rank();
  if (rank == 0) std::printf("%s\n", transport->Describe().c_str());
  if (scenario == "death") test::End(rank, test::SurviveADeath(*transport, absl::Milliseconds(300)));
  if (scenario == "early-death") test::End(rank, test::SurviveADeath(*transport, absl::Milliseconds(1)));
  if (scenario == "stop") test::End(rank, test::CloseBesideAStoppedRank(*transport, **bootstrap));
  if (scenario != "ladder") test::Fatal(absl::InvalidArgumentError(absl::StrCat("no scenario ", scenario)));
  const bool ok = test::ClimbLadder(*transport);
  transport.reset();
  (*bootstrap)->Finish(/*clean=*/ok);
  if (!ok) test::End(rank, false);
  return 0;
}
