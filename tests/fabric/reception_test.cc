// The way into rank 0's port: who has the key comes in, everybody else is refused by name; processes that
// join ask, and are answered.
#include "fabric/reception.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fabric/bootstrap.h"
#include "fabric/join_desk.h"
#include "tests/support/free_port.h"
#include "tests/support/fuzz.h"
#include "tests/support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lombard {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const ClusterKey kKey("a secret of some length"), kOther("another secret, as long");

ReceptionRules Rules(const ClusterKey& key, uint32_t protocol = 2) {
  return {.key = key, .protocol = protocol, .job = "", .place = "node1:7700"};
}

// What a guest with `theirs` makes of a host with `ours`, and what the host says.
struct Outcome {
  absl::Status guest;
  Host::Step host;
};
Outcome Talk(const ReceptionRules& ours, const ReceptionRules& theirs) {
  Host host(&ours, MakeNonce());
  const Guest guest(&theirs,
                    {.joins = true, .rank = -1, .size = 0, .host_key = "boot", .who = "node7 pid 12"},
                    MakeNonce());
  Outcome outcome{.guest = {}, .host = host.OnFrame(guest.Greeting())};
  const auto hello = guest.OnChallenge(outcome.host.reply);
  outcome.guest = hello.status();
  if (hello.ok()) outcome.host = host.OnFrame(*hello);
  return outcome;
}

TEST(Reception, WhoHasTheKeyComesIn) {
  for (const ClusterKey& key : {kKey, ClusterKey()}) {
    const Outcome outcome = Talk(Rules(key), Rules(key));
    EXPECT_TRUE(outcome.guest.ok()) << outcome.guest;
    ASSERT_TRUE(outcome.host.in.has_value());
    EXPECT_TRUE(outcome.host.in->joins);
    EXPECT_EQ(outcome.host.in->who, "node7 pid 12");
    EXPECT_EQ(outcome.host.in->host_key, "boot");
  }
}

TEST(Reception, AnotherKeyOrProtocolIsRefusedByNameWithBothValuesAndARemedy) {
  for (const auto& [ours, theirs] : {std::pair(kKey, kOther), {kKey, ClusterKey()}, {ClusterKey(), kKey}}) {
    const Outcome outcome = Talk(Rules(ours), Rules(theirs));
    EXPECT_EQ(outcome.guest, outcome.host.refusal) << "both sides say the same";
    EXPECT_TRUE(absl::IsPermissionDenied(outcome.guest));
    EXPECT_THAT(std::string(outcome.guest.message()),
                AllOf(HasSubstr(absl::StrCat("cluster key ", theirs.id())), HasSubstr(ours.id()),
                      HasSubstr("node1:7700"), HasSubstr("--cluster-key-file")));
  }
  const Outcome outcome = Talk(Rules(kKey, 2), Rules(kKey, 3));
  EXPECT_EQ(outcome.guest, outcome.host.refusal);
  EXPECT_THAT(std::string(outcome.guest.message()), AllOf(HasSubstr("protocol version 3 of node7 pid 12"),
                                                          HasSubstr("which is 2"), HasSubstr("same build")));
}

TEST(Reception, AKeysNameIsNotItsProof) {
  const ReceptionRules rules = Rules(kKey);
  // A guest that knows the name alone.
  Host host(&rules, MakeNonce());
  const std::string greeting =
      absl::StrCat("lombard rendezvous 2\njoin\n\nx pid 1\n2\n", kKey.id(), "\nnonce");
  ASSERT_TRUE(host.OnFrame(greeting).refusal.ok());
  const Host::Step step = host.OnFrame(absl::StrCat("-1\n0\nboot\n", kOther.Prove("guest", "whatever")));
  EXPECT_TRUE(absl::IsPermissionDenied(step.refusal));
  EXPECT_TRUE(step.done);
  // A host that does, and one that sends the guest's own words back.
  const Guest guest(&rules, {.joins = true}, "my nonce");
  EXPECT_TRUE(absl::IsPermissionDenied(
      guest.OnChallenge(absl::StrCat("challenge\nyours\n", kOther.Prove("host", "my nonceyours"))).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(
      guest.OnChallenge(absl::StrCat("challenge\nyours\n", kKey.Prove("guest", "my nonceyours"))).status()));
  EXPECT_TRUE(
      guest.OnChallenge(absl::StrCat("challenge\nyours\n", kKey.Prove("host", "my nonceyours"))).ok());
  EXPECT_NE(MakeNonce(), MakeNonce());
}

TEST(ClusterKey, AFileThatOthersMayReadOrThatIsTooShortIsRefused) {
  const TempDir folder;
  const std::string path = folder.path() + "/key";
  std::ofstream(path) << "a secret of some length\n";
  chmod(path.c_str(), 0644);
  EXPECT_THAT(std::string(ClusterKey::Load(path).status().message()),
              AllOf(HasSubstr("mode 644"), HasSubstr("chmod 600")));
  chmod(path.c_str(), 0600);
  ASSERT_TRUE(ClusterKey::Load(path).ok());
  EXPECT_EQ(ClusterKey::Load(path)->id(), kKey.id()) << "without the line's end";
  std::ofstream(path) << "short\n";
  EXPECT_THAT(std::string(ClusterKey::Load(path).status().message()),
              AllOf(HasSubstr("5 bytes"), HasSubstr("16")));
  EXPECT_EQ(ClusterKey::Load(path + "x").status().code(), absl::StatusCode::kNotFound);
}

TEST(JoinDesk, AGuestIsToldAsksAndIsAnswered) {
  const int port = FreePort();
  ReceptionRules rules = Rules(kKey);
  rules.place = absl::StrCat("127.0.0.1:", port);
  auto listener = TcpListener::Listen("127.0.0.1", port);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(listener->loopback());
  std::vector<std::string> refused;
  JoinDesk desk(
      {.rules = rules,
       .single_host = true,
       .word_wait = absl::Hours(1),
       .host_keys =
           [] {
             return std::vector<std::string>{"elsewhere", ""};
           },
       .on_refusal = [&](const absl::Status& why) { refused.push_back(std::string(why.message())); }},
      *std::move(listener));
  std::atomic<bool> done{false};
  const auto ask = [&] {
    const absl::Time deadline = absl::Now() + absl::Hours(1);
    auto entry = JobEntry::Enter(rules, deadline);
    ASSERT_TRUE(entry.ok()) << entry.status();
    EXPECT_TRUE(entry->single_host());
    EXPECT_EQ(entry->ranks_here(), 0);
    const auto welcome = entry->Ask("may I?", deadline);
    ASSERT_TRUE(welcome.ok()) << welcome.status();
    EXPECT_EQ(*welcome, "you may");
    auto second = JobEntry::Enter(rules, deadline);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(second->Ask("may I?", deadline).status(), absl::ResourceExhaustedError("no place"));
    ReceptionRules wrong = rules;
    wrong.key = kOther;
    EXPECT_TRUE(absl::IsPermissionDenied(JobEntry::Enter(wrong, deadline).status()));
    BootstrapOptions starts{.rank = 1, .size = 2, .rendezvous = rules.place, .key = kKey, .protocol = 2};
    EXPECT_THAT(std::string(MakeEnvironmentBootstrap(starts).status().message()), HasSubstr("--join"));
  };
  std::thread guests([&] {
    ask();
    done = true;
  });
  int asked = 0;
  while (!done) {
    for (const JoinDesk::Request& request : desk.Poll(absl::Now())) {
      EXPECT_EQ(request.body, "may I?");
      if (++asked == 1) {
        desk.Answer(request.guest, "you may");
      } else {
        desk.Answer(request.guest, absl::ResourceExhaustedError("no place"));
      }
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  guests.join();
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(refused.size(), 3u) << testing::PrintToString(refused);
}

TEST(Rendezvous, OtherHostsNeedAKey) {
  const auto open = ListenAtRendezvous(
      {.rendezvous = absl::StrCat("127.0.0.1:", FreePort()), .key = {}, .bind = "0.0.0.0"});
  EXPECT_THAT(std::string(open.status().message()),
              AllOf(HasSubstr("--cluster-key-file"), HasSubstr("127.0.0.1")));
  EXPECT_TRUE(ListenAtRendezvous(
                  {.rendezvous = absl::StrCat("127.0.0.1:", FreePort()), .key = kKey, .bind = "0.0.0.0"})
                  .ok());
  EXPECT_FALSE(ListenAtRendezvous({.rendezvous = "127.0.0.1:7", .key = kKey, .bind = "192.0.2.1"}).ok());
}

TEST(Reception, AnyFramesAreReadOrRefused) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  RunFuzzCorpus(LLVMFuzzerTestOneInput, FuzzCorpus("reception"), 3000, seed);
}

}  // namespace
}  // namespace lombard
