// Hosts that are network namespaces, each with one link to a common bridge and a host name of its own. Root
// only. Names hold this process's id, so runs do not meet; what killed runs left is removed.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lombard {

class FakeHosts {
 public:
  // kFailedPrecondition: this machine does not let us, and why.
  static absl::Status Possible();

  // REQUIRES: Possible.
  explicit FakeHosts(int count);
  ~FakeHosts();
  FakeHosts(const FakeHosts&) = delete;
  FakeHosts& operator=(const FakeHosts&) = delete;

  static std::string Address(int host);
  // The command line that runs `argv` on the host; exec all the way, so its process is the program's.
  std::vector<std::string> On(int host, const std::vector<std::string>& argv) const;
  void SetLink(int host, bool up);  // to the bridge, so to all others
  // Isolated hosts reach those that are not isolated, but not each other.
  void SetIsolated(int host, bool isolated);
  uint64_t Bytes(int host) const;  // over its link so far, both ways

 private:
  std::string Namespace(int host) const;
  std::string Link(int host) const;
  void Remove();

  const int count_;
  const std::string id_, bridge_;
};

}  // namespace lombard
