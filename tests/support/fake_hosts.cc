#include "tests/support/fake_hosts.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace lombard {
namespace {

bool Try(const std::string& command) { return system((command + " > /dev/null 2>&1").c_str()) == 0; }
void Must(const std::string& command) { CHECK(Try(command)) << command << " failed"; }

// "lmb123" or "lmb123.4": 123; 0: not ours.
pid_t OwnerOf(absl::string_view name) {
  pid_t owner = 0;
  if (!absl::ConsumePrefix(&name, "lmb")) return 0;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &owner) ? owner : 0;
}

void RemoveLeftovers() {
  const auto ownerless = [](const std::string& folder) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      const std::string name = entry.path().filename();
      const pid_t owner = OwnerOf(name);
      if (owner > 0 && kill(owner, 0) != 0) names.push_back(name);
    }
    return names;
  };
  for (const std::string& name : ownerless("/run/netns")) Try("ip netns del " + name);
  for (const std::string& name : ownerless("/sys/class/net")) Try("ip link del " + name);
}

}  // namespace

absl::Status FakeHosts::Possible() {
  if (geteuid() != 0) return absl::FailedPreconditionError("fake hosts need root");
  RemoveLeftovers();
  const std::string name = absl::StrCat("lmb", getpid(), ".t"), link = absl::StrCat("lmb", getpid());
  const bool made = Try("ip netns add " + name) && Try("ip link add " + link + " type bridge") &&
                    Try("ip netns exec " + name + " unshare --uts true");
  Try("ip link del " + link);
  Try("ip netns del " + name);
  if (made) return absl::OkStatus();
  return absl::FailedPreconditionError("this machine makes no network namespaces and bridges (ip, unshare)");
}

FakeHosts::FakeHosts(int count) : count_(count), id_(absl::StrCat("lmb", getpid())), bridge_(id_) {
  Must(absl::StrCat("ip link add ", bridge_, " type bridge"));
  Must(absl::StrCat("ip link set ", bridge_, " up"));
  for (int i = 0; i < count; ++i) {
    const std::string in = absl::StrCat("ip -n ", Namespace(i), " ");
    Must(absl::StrCat("ip netns add ", Namespace(i)));
    Must(absl::StrCat("ip link add ", Link(i), " type veth peer name eth0 netns ", Namespace(i)));
    Must(absl::StrCat("ip link set ", Link(i), " master ", bridge_, " up"));
    Must(absl::StrCat(in, "addr add ", Address(i), "/24 dev eth0"));
    Must(in + "link set eth0 up");
    Must(in + "link set lo up");
  }
}

FakeHosts::~FakeHosts() { Remove(); }

std::string FakeHosts::Address(int host) { return absl::StrCat("10.78.0.", host + 1); }
std::string FakeHosts::Namespace(int host) const { return absl::StrCat(id_, ".", host); }
std::string FakeHosts::Link(int host) const { return absl::StrCat(id_, ".", host); }

std::vector<std::string> FakeHosts::On(int host, const std::vector<std::string>& argv) const {
  std::vector<std::string> out = {"ip",
                                  "netns",
                                  "exec",
                                  Namespace(host),
                                  "unshare",
                                  "--uts",
                                  "sh",
                                  "-c",
                                  absl::StrCat("hostname fake", host, "; exec \"$@\""),
                                  "sh"};
  out.insert(out.end(), argv.begin(), argv.end());
  return out;
}

void FakeHosts::SetLink(int host, bool up) {
  Must(absl::StrCat("ip link set ", Link(host), up ? " up" : " down"));
}
void FakeHosts::SetIsolated(int host, bool isolated) {
  Must(absl::StrCat("bridge link set dev ", Link(host), " isolated ", isolated ? "on" : "off"));
}

uint64_t FakeHosts::Bytes(int host) const {
  uint64_t sum = 0;
  for (const char* way : {"rx", "tx"}) {
    uint64_t bytes = 0;
    std::ifstream(absl::StrCat("/sys/class/net/", Link(host), "/statistics/", way, "_bytes")) >> bytes;
    sum += bytes;
  }
  return sum;
}

void FakeHosts::Remove() {
  for (int i = 0; i < count_; ++i) {
    Try("ip link del " + Link(i));
    Try("ip netns del " + Namespace(i));
  }
  Try("ip link del " + bridge_);
}

}  // namespace lombard
