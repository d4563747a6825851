#include "fabric/bootstrap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fabric/host_name.h"
#include "fabric/make_transport.h"
#include "fabric/tcp_frames.h"
#include "tests/fabric/transport_ladder.h"
#include "tests/support/free_port.h"

namespace lombard {
namespace {

using testing::AllOf;
using testing::HasSubstr;

BootstrapOptions Options(int rank, int size, int port, absl::Duration deadline = absl::Hours(1)) {
  return {.rank = rank,
          .size = size,
          .rendezvous = absl::StrCat("127.0.0.1:", port),
          .job = "test",
          .deadline = deadline};
}

// What each of these becomes, each on a thread.
std::vector<absl::StatusOr<std::unique_ptr<Bootstrap>>> Meet(const std::vector<BootstrapOptions>& options) {
  std::vector<absl::StatusOr<std::unique_ptr<Bootstrap>>> results(options.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < options.size(); ++i)
    threads.emplace_back([&, i] { results[i] = MakeEnvironmentBootstrap(options[i]); });
  for (auto& thread : threads) thread.join();
  return results;
}

TEST(EnvironmentBootstrap, RanksMeetAndExchangeMoreThanOnce) {
  for (const int size : {1, 2, 5}) {
    const int port = FreePort();
    std::vector<BootstrapOptions> options;
    for (int rank = size - 1; rank >= 0; --rank) options.push_back(Options(rank, size, port));
    const auto ranks = Meet(options);
    std::vector<std::thread> threads;
    for (const auto& rank : ranks) {
      ASSERT_TRUE(rank.ok()) << rank.status();
      threads.emplace_back([&bootstrap = **rank, size] {
        const JobLayout layout = bootstrap.layout();
        EXPECT_EQ(layout.size, size);
        EXPECT_EQ(layout.local_rank, layout.rank);
        EXPECT_EQ(layout.local_size, size);
        EXPECT_EQ(layout.host, HostName());
        for (size_t bytes : {0, 10, 100000}) {
          const auto all =
              bootstrap.AllGather(test::PatternBytes(bytes + layout.rank, layout.rank), absl::Hours(1));
          ASSERT_TRUE(all.ok()) << all.status();
          ASSERT_EQ(all->size(), size);
          for (int i = 0; i < size; ++i) EXPECT_TRUE((*all)[i] == test::PatternBytes(bytes + i, i));
        }
        bootstrap.Finish(true);
      });
    }
    for (auto& thread : threads) thread.join();
  }
}

TEST(EnvironmentBootstrap, StrangersAtThePortDoNotDisturbTheJob) {
  const int port = FreePort();
  std::thread stranger([port] {
    const absl::Time deadline = absl::Now() + absl::Hours(1);
    auto silent = TcpStream::Connect("127.0.0.1", port, deadline);
    auto loud = TcpStream::Connect("127.0.0.1", port, deadline);
    if (loud.ok()) loud->WriteFrame("GET / HTTP/1.1", deadline).IgnoreError();
    BootstrapOptions other = Options(1, 2, port);
    other.job = "another";
    const auto refused = MakeEnvironmentBootstrap(other);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()),
                AllOf(HasSubstr("'test', not 'another'"), HasSubstr("--rendezvous")));
    const auto joined = MakeEnvironmentBootstrap(Options(1, 2, port));
    EXPECT_TRUE(joined.ok()) << joined.status();
  });
  const auto host = MakeEnvironmentBootstrap(Options(0, 2, port));
  stranger.join();
  EXPECT_TRUE(host.ok()) << host.status();
}

TEST(EnvironmentBootstrap, ARankThatCameTwiceIsNamedToAll) {
  const int port = FreePort();
  const auto results = Meet({Options(0, 3, port), Options(1, 3, port), Options(1, 3, port)});
  for (const auto& result : results) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("rank 1 came twice: "));
  }
}

TEST(EnvironmentBootstrap, RanksThatDisagreeOnTheSizeAreTold) {
  const int port = FreePort();
  const auto results = Meet({Options(0, 3, port), Options(1, 4, port)});
  for (const auto& result : results) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), AllOf(HasSubstr("one of 4"), HasSubstr("one of 3")));
  }
}

TEST(EnvironmentBootstrap, MissingRanksAreNamedAtTheDeadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Bootstrap>>> results;
  bool met = false;
  // On a busy machine the two may need more time to meet.
  for (absl::Duration deadline = absl::Milliseconds(400); !met && deadline < absl::Seconds(30);
       deadline *= 4) {
    const int port = FreePort();
    results = Meet({Options(0, 4, port, deadline), Options(2, 4, port, deadline)});
    met = absl::StrContains(results[0].status().message(), "2 of 4");
  }
  for (const auto& result : results) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(result.status().message()),
                AllOf(HasSubstr("2 of 4 ranks"), HasSubstr("missing: 1, 3")));
  }
}

TEST(EnvironmentBootstrap, WithoutRankZeroTheOthersGiveUp) {
  const auto result = MakeEnvironmentBootstrap(Options(1, 2, FreePort(), absl::Milliseconds(200)));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("rank 1 did not reach rank 0"));
}

TEST(EnvironmentBootstrap, ATakenPortIsSaid) {
  const int port = FreePort();
  const auto listener = TcpListener::Listen("127.0.0.1", port);
  ASSERT_TRUE(listener.ok()) << listener.status();
  const auto result = MakeEnvironmentBootstrap(Options(0, 2, port));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()),
              AllOf(HasSubstr(absl::StrCat(port)), HasSubstr("in use"), HasSubstr("--rendezvous")));
}

TEST(EnvironmentBootstrap, ARankThatLeavesDuringAnExchangeIsNamed) {
  const int port = FreePort();
  auto ranks = Meet({Options(0, 3, port), Options(1, 3, port), Options(2, 3, port)});
  for (const auto& rank : ranks) ASSERT_TRUE(rank.ok()) << rank.status();
  (*ranks[2])->Finish(false);
  std::thread other([&] {
    const auto all = (*ranks[1])->AllGather("one", absl::Hours(1));
    EXPECT_EQ(all.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(all.status().message()), HasSubstr("rank 2"));
  });
  const auto all = (*ranks[0])->AllGather("zero", absl::Hours(1));
  EXPECT_EQ(all.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(all.status().message()), HasSubstr("rank 2"));
  other.join();
}

TEST(EnvironmentBootstrap, BadAddressesAndRanksAreRefused) {
  for (const char* bad : {"", "host", "host:", ":1", "host:0", "host:65536", "host:x", "[::1:80"}) {
    EXPECT_EQ(ParseHostPort(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(*ParseHostPort("[::1]:80"), std::pair(std::string("::1"), 80));
  EXPECT_EQ(MakeEnvironmentBootstrap(Options(2, 2, 1)).status().code(), absl::StatusCode::kInvalidArgument);
}

absl::StatusOr<LaunchChoice> Choose(const std::map<std::string, std::string>& env,
                                    const BootstrapOptions& options = {}) {
  return ChooseLauncher(options, [&](const char* name) -> const char* {
    const auto it = env.find(name);
    return it == env.end() ? nullptr : it->second.c_str();
  });
}

TEST(ChooseLauncher, KnowsWhatStartedTheProcess) {
  EXPECT_EQ(Choose({})->launcher, Launcher::kNone);
  EXPECT_EQ(Choose({{"OMPI_COMM_WORLD_SIZE", "4"}})->launcher, Launcher::kMpi);
  EXPECT_EQ(Choose({{"OMPI_COMM_WORLD_SIZE", "1"}})->launcher, Launcher::kNone);
  EXPECT_EQ(Choose({{"PMIX_RANK", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}})
                ->launcher,
            Launcher::kMpi);
  EXPECT_EQ(Choose({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}})->launcher, Launcher::kNone)
      << "a batch script, not a step";
  EXPECT_EQ(Choose({{"PMI_SIZE", "4"}}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Choose({{"OMPI_COMM_WORLD_SIZE", "x"}}).status().code(), absl::StatusCode::kInvalidArgument);

  const auto flags = Choose({{"OMPI_COMM_WORLD_SIZE", "4"}}, {.rank = 1, .size = 2, .rendezvous = "h:1"});
  EXPECT_EQ(flags->launcher, Launcher::kEnvironment) << "flags win";
  EXPECT_EQ(Choose({}, {.rank = 1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Choose({}, {.rank = 1, .size = 2}).status().message()), HasSubstr("--rendezvous"));
}

TEST(ChooseLauncher, FillsInASlurmStep) {
  const std::map<std::string, std::string> step = {{"SLURM_PROCID", "3"},
                                                   {"SLURM_STEP_ID", "1"},
                                                   {"SLURM_NTASKS", "8"},
                                                   {"SLURM_JOB_ID", "77"},
                                                   {"SLURM_STEP_NODELIST", "n[03-04,9],m1"}};
  const auto choice = Choose(step);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->launcher, Launcher::kEnvironment);
  EXPECT_EQ(choice->options.rank, 3);
  EXPECT_EQ(choice->options.size, 8);
  EXPECT_EQ(choice->options.job, "Slurm 77.1");
  EXPECT_THAT(choice->options.rendezvous, testing::MatchesRegex("n03:[23][0-9]{4}"));
  std::map<std::string, std::string> other_rank = step;
  other_rank["SLURM_PROCID"] = "5";
  EXPECT_EQ(Choose(other_rank)->options.rendezvous, choice->options.rendezvous);
  EXPECT_EQ(Choose(step, {.rendezvous = "head:5000"})->options.rendezvous, "head:5000");
}

TEST(ChooseLauncher, ReadsTheFirstHostOfASlurmList) {
  EXPECT_EQ(FirstHost("node"), "node");
  EXPECT_EQ(FirstHost("a,b"), "a");
  EXPECT_EQ(FirstHost("n[1-4,7]"), "n1");
  EXPECT_EQ(FirstHost("rack[2,5]-n[008-010],x"), "rack2-n008");
  EXPECT_EQ(FirstHost("n[3"), "n3");
  EXPECT_EQ(FirstHost(""), "");
}

TEST(MakeLayout, CountsTheRanksOfEachHost) {
  const std::vector<std::string> hosts = {"a/1", "b/2", "a/1", "a/3", "b/2"};
  const JobLayout layout = MakeLayout(2, hosts);
  EXPECT_EQ(layout.host, "a");
  EXPECT_EQ(layout.local_rank, 1);
  EXPECT_EQ(layout.local_size, 2) << "another machine of the same name is another host";
  EXPECT_EQ(MakeLayout(4, hosts).local_rank, 1);
}

TEST(MakeTransport, AJobOfOneRankNeedsNoNetwork) {
  const auto transport = MakeUcxTransport(*MakeSingleBootstrap(), {});
  ASSERT_TRUE(transport.ok()) << transport.status();
  EXPECT_THAT(transport->transport->Describe(), HasSubstr("loopback"));
}

}  // namespace
}  // namespace lombard
