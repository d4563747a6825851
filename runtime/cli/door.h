// Who may join the job, beside rank 0's worker: the answers to fabric/join_desk.h.
#pragma once

#include <string>
#include <vector>

#include "fabric/join_desk.h"
#include "fabric/make_transport.h"
#include "fabric/messages/work.pb.h"
#include "gmanager/gmanager.h"
#include "runtime/job/job.h"

namespace lombard {

class Door {
 public:
  // `hellos`, and in `fabric` the addresses, of the ranks that started, by rank. `job` is not owned.
  Door(JoinDesk::Options options, TcpListener listener, std::vector<messages::Hello> hellos,
       const Fabric& fabric, int size_max, const Job* job);

  // On the manager thread, now and then. True while somebody is at the door.
  bool Turn(GManager* gmanager, absl::Time now);

 private:
  struct Place {
    std::string host_key, address;
    uint64_t generation = 0;  // 0: nobody has been there
    bool taken = true;        // by somebody who is there, or awaited
  };
  absl::StatusOr<std::string> Decide(const JoinDesk::Request& request, GManager* gmanager, absl::Time now);

  const messages::Hello rank_zero_;
  const uint32_t fabric_job_;
  const Job* const job_;
  std::vector<Place> places_;  // by rank
  JoinDesk desk_;
};

}  // namespace lombard
