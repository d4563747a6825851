#include "tests/fabric/fake_nccl.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/emulation/emulated_device.h"

namespace {

struct Transfer {
  enum Kind { kSend, kReceive, kReduce } kind;
  ncclComm_t comm;
  int peer;  // kSend, kReceive
  const void* source;
  void* target;
  size_t bytes;
  bool here = false;  // its turn has come, on its device and in its stream
  bool done = false;
};
using TransferRef = std::shared_ptr<Transfer>;

}  // namespace

struct ncclComm {
  std::string key;
  int rank, size, device;
  bool aborted = false, remote_error = false, refused = false;
  int not_yet = 0;                              // answers ncclInProgress so often
  bool has_sent = false, has_received = false;  // submitted one, that is
};

namespace lombard {
namespace {

// NCCL's state is the process's, so is this one's.
struct World {
  std::mutex mutex;  // taken after the device's
  std::condition_variable changed;
  uint64_t keys = 0, calls = 0;
  bool connects = false;  // FakeNcclConnects
  bool hangs = false;     // FakeNcclHangs
  std::vector<std::unique_ptr<ncclComm>> comms;
  std::map<int, std::deque<TransferRef>> submitted;  // by device

  std::vector<ncclComm*> Members(const ncclComm& of) {
    std::vector<ncclComm*> members;
    for (const auto& comm : comms)
      if (comm->key == of.key) members.push_back(comm.get());
    return members;
  }
  void Finish(const TransferRef& transfer) {
    transfer->done = true;
    std::erase(submitted[transfer->comm->device], transfer);
    changed.notify_all();
  }
  // Ends what the communicator has under way.
  void Drop(const ncclComm* comm) {
    const std::deque<TransferRef> all = submitted[comm->device];
    for (const TransferRef& transfer : all)
      if (transfer->comm == comm) Finish(transfer);
  }
};

World& TheWorld() {
  static World& world = *new World;  // for ever: aborts may still run when the program ends
  return world;
}

// The transfer of `comm` that is at the front of its device, if its turn has come.
TransferRef FrontOf(World& world, const ncclComm* comm) {
  const auto& queue = world.submitted[comm->device];
  return !queue.empty() && queue.front()->comm == comm && queue.front()->here ? queue.front() : nullptr;
}

void Match(World& world, const TransferRef& mine) {
  if (mine->kind == Transfer::kReduce) {
    std::vector<TransferRef> all;
    for (const ncclComm* member : world.Members(*mine->comm)) {
      TransferRef one = FrontOf(world, member);
      if (one == nullptr || one->kind != Transfer::kReduce) return;
      all.push_back(std::move(one));
    }
    if (static_cast<int>(all.size()) < mine->comm->size) return;
    std::vector<float> sum(mine->bytes / sizeof(float));
    for (const TransferRef& one : all)
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<const float*>(one->source)[i];
    for (const TransferRef& one : all) {
      std::memcpy(one->target, sum.data(), one->bytes);
      world.Finish(one);
    }
    return;
  }
  for (const ncclComm* member : world.Members(*mine->comm)) {
    if (member->rank != mine->peer) continue;
    const TransferRef other = FrontOf(world, member);
    if (other == nullptr || other->peer != mine->comm->rank || other->kind == mine->kind ||
        other->bytes != mine->bytes)
      return;
    const bool sends = mine->kind == Transfer::kSend;
    std::memcpy(sends ? other->target : mine->target, sends ? mine->source : other->source, mine->bytes);
    world.Finish(mine);
    world.Finish(other);
    return;
  }
}

int Advance(const TransferRef& transfer) {
  World& world = TheWorld();
  std::lock_guard lock(world.mutex);
  if (!transfer->done && world.submitted[transfer->comm->device].front() == transfer) {
    transfer->here = true;
    Match(world, transfer);
  }
  return transfer->done ? 0 : emulation::kNotReady;
}

ncclResult_t StateOf(World& world, ncclComm* comm) {
  if (comm->refused) return ncclInvalidUsage;
  if (comm->remote_error) return ncclRemoteError;
  if (static_cast<int>(world.Members(*comm).size()) < comm->size) return ncclInProgress;
  if (world.connects && comm->size == 2) {
    for (const ncclComm* other : world.Members(*comm)) {
      if (other == comm) continue;
      if ((comm->has_sent && !other->has_received) || (comm->has_received && !other->has_sent))
        return ncclInProgress;
    }
  }
  if (comm->not_yet > 0) return --comm->not_yet, ncclInProgress;
  return ncclSuccess;
}

ncclResult_t Submit(Transfer::Kind kind, ncclComm_t comm, int peer, const void* source, void* target,
                    size_t bytes, cudaStream_t stream) {
  World& world = TheWorld();
  bool accepted = true;
  auto transfer = std::make_shared<Transfer>(Transfer{kind, comm, peer, source, target, bytes});
  {
    std::lock_guard lock(world.mutex);
    if (comm->aborted || comm->device != emulation::CurrentDevice()) return ncclInvalidArgument;
    if (const ncclResult_t state = StateOf(world, comm); state != ncclSuccess)
      return state == ncclInProgress ? ncclInvalidUsage : state;
    world.submitted[comm->device].push_back(transfer);
    accepted = ++world.calls % 3 != 0;
    if (!accepted) comm->not_yet = 2;
    (kind == Transfer::kSend ? comm->has_sent : comm->has_received) = true;
    if (StateOf(world, comm) == ncclInProgress) accepted = false;
  }
  const char* const name = kind == Transfer::kSend      ? "ncclSend"
                           : kind == Transfer::kReceive ? "ncclRecv"
                                                        : "ncclAllReduce";
  if (emulation::EnqueueWaiting({comm->device, stream}, name, [transfer] { return Advance(transfer); }) != 0)
    return ncclUnhandledCudaError;
  return accepted ? ncclSuccess : ncclInProgress;
}

}  // namespace

NcclLibrary FakeNccl() {
  NcclLibrary nccl;
  nccl.GetVersion = [](int* version) { return *version = NCCL_VERSION_CODE, ncclSuccess; };
  nccl.GetErrorString = [](ncclResult_t result) {
    return result == ncclRemoteError    ? "remote process exited"
           : result == ncclInvalidUsage ? "invalid usage"
                                        : "error";
  };
  nccl.GetUniqueId = [](ncclUniqueId* id) {
    std::lock_guard lock(TheWorld().mutex);
    std::memset(id, 0, sizeof(*id));
    std::memcpy(id->internal, &++TheWorld().keys, sizeof(uint64_t));
    return ncclSuccess;
  };
  nccl.CommInitRankConfig = [](ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
    World& world = TheWorld();
    std::lock_guard lock(world.mutex);
    if (config->blocking != 0) return ncclInvalidUsage;
    world.comms.push_back(std::make_unique<ncclComm>(
        ncclComm{std::string(id.internal, sizeof(id.internal)), rank, size, emulation::CurrentDevice()}));
    *comm = world.comms.back().get();
    for (ncclComm* member : world.Members(**comm))  // "Duplicate GPU detected"
      if (member != *comm && member->device == (*comm)->device) member->refused = (*comm)->refused = true;
    return ncclInProgress;
  };
  nccl.CommGetAsyncError = [](ncclComm_t comm, ncclResult_t* state) {
    std::lock_guard lock(TheWorld().mutex);
    if (comm->aborted || comm->device != emulation::CurrentDevice()) return ncclInvalidArgument;
    return *state = StateOf(TheWorld(), comm), ncclSuccess;
  };
  nccl.CommAbort = [](ncclComm_t comm) {
    World& world = TheWorld();
    std::unique_lock lock(world.mutex);
    world.changed.wait(lock, [&] { return !world.hangs; });
    if (comm->aborted || comm->device != emulation::CurrentDevice()) return ncclInvalidArgument;
    comm->aborted = true;
    world.Drop(comm);
    world.changed.wait(lock, [&] { return world.submitted[comm->device].empty(); });
    return ncclSuccess;
  };
  nccl.Send = [](const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                 cudaStream_t stream) {
    return Submit(Transfer::kSend, comm, peer, data, nullptr, count, stream);
  };
  nccl.Recv = [](void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
    return Submit(Transfer::kReceive, comm, peer, nullptr, data, count, stream);
  };
  nccl.AllReduce = [](const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t, ncclComm_t comm,
                      cudaStream_t stream) {
    return Submit(Transfer::kReduce, comm, -1, from, to, count * sizeof(float), stream);
  };
  return nccl;
}

FakeNcclConnects::FakeNcclConnects() {
  std::lock_guard lock(TheWorld().mutex);
  TheWorld().connects = true;
}
FakeNcclConnects::~FakeNcclConnects() {
  std::lock_guard lock(TheWorld().mutex);
  TheWorld().connects = false;
}

FakeNcclHangs::FakeNcclHangs() {
  std::lock_guard lock(TheWorld().mutex);
  TheWorld().hangs = true;
}
FakeNcclHangs::~FakeNcclHangs() {
  std::lock_guard lock(TheWorld().mutex);
  TheWorld().hangs = false;
  TheWorld().changed.notify_all();
}

void KillFakeNcclRank(int device, bool noticed) {
  World& world = TheWorld();
  std::lock_guard lock(world.mutex);
  for (const auto& comm : world.comms) {
    if (comm->device != device || comm->aborted) continue;
    comm->aborted = true;
    world.Drop(comm.get());
    if (!noticed) continue;
    for (ncclComm* member : world.Members(*comm)) member->remote_error = true;
  }
}

}  // namespace lombard
