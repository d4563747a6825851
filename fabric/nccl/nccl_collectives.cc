#include "fabric/nccl/nccl_collectives.h"

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/device/gpu_stream.h"
#include "base/status.h"

namespace lombard {
namespace {

// Of a pair's communicator.
constexpr int kDebtor = 0, kCreditor = 1;

std::string Name(LoanPair pair) {
  return absl::StrCat("NCCL, loans of rank ", pair.creditor, " to rank ", pair.debtor);
}

// An abort may wait for all kernels of the GPU, those of other communicators that are about to be aborted too
// (NCCL issues 549, 564, 829). So each has a thread, and nobody waits for one but the end.
class Aborts {
 public:
  Aborts(const NcclLibrary& library, int device) : state_(std::make_shared<State>(library, device)) {}

  void Begin(ncclComm_t comm, LoanPair pair) {
    {
      std::lock_guard lock(state_->mutex);
      ++state_->under_way;
    }
    std::thread([state = state_, comm, pair] {
      absl::Status status = MakeGpuCurrent(state->device);
      // Neither finalized nor destroyed: both may wait for the other end.
      status.Update(state->nccl.ToStatus(state->nccl.CommAbort(comm), "ncclCommAbort"));
      if (!status.ok()) Report(absl::StrCat(Name(pair), ": ", status.message()));
      std::lock_guard lock(state->mutex);
      --state->under_way;
      state->ended.notify_all();
    }).detach();
  }

  void Wait(absl::Duration most) {
    std::unique_lock lock(state_->mutex);
    if (state_->ended.wait_for(lock, absl::ToChronoMilliseconds(most),
                               [&] { return state_->under_way == 0; }))
      return;
    Report(absl::StrCat(state_->under_way, " calls of ncclCommAbort on GPU ", state_->device,
                        " have not returned in ", absl::FormatDuration(most)));
  }

 private:
  struct State {
    State(const NcclLibrary& library, int device) : nccl(library), device(device) {}
    const NcclLibrary nccl;
    const int device;
    std::mutex mutex;
    std::condition_variable ended;
    int under_way = 0;
  };
  static void Report(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

  const std::shared_ptr<State> state_;  // of the threads too, one of which may hang
};

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(const NcclLibrary& library, const NcclOptions& options, const Clock* clock)
      : nccl_(library), options_(options), clock_(*clock), aborts_(library, options.device) {}

  ~NcclCollectives() override {
    while (!pairs_.empty()) Close(pairs_.begin()->first);
    aborts_.Wait(options_.abort_timeout);
  }

  absl::StatusOr<std::string> NewKey() override {
    ncclUniqueId id;
    RETURN_IF_ERROR(nccl_.ToStatus(nccl_.GetUniqueId(&id), "ncclGetUniqueId"));
    return std::string(id.internal, sizeof(id.internal));
  }

  absl::Status Open(LoanPair pair, absl::string_view key, const GpuPlace& other, absl::Time now) override {
    CHECK((pair.debtor == options_.rank) != (pair.creditor == options_.rank));
    if (other == options_.place) {
      return absl::FailedPreconditionError(
          absl::StrCat(Name(pair), ": both ranks are on GPU ", other.pci, " of ", other.host,
                       ", which NCCL refuses; they exchange through host memory"));
    }
    ncclUniqueId id;
    if (key.size() != sizeof(id.internal))
      return absl::InvalidArgumentError(
          absl::StrCat(Name(pair), ": a key of ", key.size(), " bytes instead of ", sizeof(id.internal)));
    std::lock_guard lock(mutex_);
    if (pairs_.contains(pair)) return absl::AlreadyExistsError(absl::StrCat(Name(pair), " is open"));
    std::memcpy(id.internal, key.data(), key.size());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = options_.ctas_max;
    RETURN_IF_ERROR(MakeGpuCurrent(options_.device));
    ncclComm_t comm = nullptr;
    const ncclResult_t result =
        nccl_.CommInitRankConfig(&comm, 2, id, pair.debtor == options_.rank ? kDebtor : kCreditor, &config);
    if (absl::Status status = nccl_.ToStatus(result, "ncclCommInitRankConfig"); !status.ok()) {
      if (comm != nullptr) aborts_.Begin(comm, pair);
      return status;
    }
    pairs_[pair] = {comm, ++opened_, false, now + options_.open_timeout};
    return absl::OkStatus();
  }

  bool IsOpen(LoanPair pair) const override {
    std::lock_guard lock(mutex_);
    const auto found = pairs_.find(pair);
    return found != pairs_.end() && found->second.open;
  }

  absl::Status Send(LoanPair pair, const void* data, uint64_t bytes, GpuStreamRef stream) override {
    return Submit(pair, "ncclSend", [&](ncclComm_t comm, int peer) {
      return nccl_.Send(data, bytes, ncclUint8, peer, comm, static_cast<cudaStream_t>(stream.handle));
    });
  }

  absl::Status Receive(LoanPair pair, void* data, uint64_t bytes, GpuStreamRef stream) override {
    return Submit(pair, "ncclRecv", [&](ncclComm_t comm, int peer) {
      return nccl_.Recv(data, bytes, ncclUint8, peer, comm, static_cast<cudaStream_t>(stream.handle));
    });
  }

  std::vector<Closed> Poll(absl::Time now) override {
    std::lock_guard lock(mutex_);
    std::vector<Closed> closed;
    if (pairs_.empty()) return closed;
    const absl::Status current = MakeGpuCurrent(options_.device);
    for (auto& [pair, one] : pairs_) {
      ncclResult_t state = ncclSuccess;
      ncclResult_t asked = current.ok() ? nccl_.CommGetAsyncError(one.comm, &state) : ncclUnhandledCudaError;
      if (asked == ncclSuccess) asked = state;
      if (absl::Status status = nccl_.ToStatus(asked, Name(pair)); !status.ok()) {
        closed.push_back({pair, absl::UnavailableError(status.message())});
      } else if (asked == ncclSuccess) {
        one.open = true;
      } else if (!one.open && now >= one.open_by) {
        closed.push_back(
            {pair, absl::DeadlineExceededError(absl::StrCat(Name(pair), ": the other end has not come in ",
                                                            absl::FormatDuration(options_.open_timeout)))});
      }
    }
    for (const Closed& one : closed) CloseLocked(one.pair);
    return closed;
  }

  void Close(LoanPair pair) override {
    std::lock_guard lock(mutex_);
    CloseLocked(pair);
  }

 private:
  struct Pair {
    ncclComm_t comm;
    uint64_t number;  // another one each time that the pair is opened
    bool open;
    absl::Time open_by;
  };

  void CloseLocked(LoanPair pair) {
    const auto found = pairs_.find(pair);
    if (found == pairs_.end()) return;
    aborts_.Begin(found->second.comm, pair);
    pairs_.erase(found);
  }

  // A communicator takes the next call only when it has accepted the one before. Others may close the pair
  // meanwhile.
  template <class Call>
  absl::Status Submit(LoanPair pair, absl::string_view name, Call call) {
    RETURN_IF_ERROR(MakeGpuCurrent(options_.device));
    std::unique_lock lock(mutex_);
    auto found = pairs_.find(pair);
    if (found == pairs_.end() || !found->second.open)
      return absl::UnavailableError(absl::StrCat(Name(pair), " is not open"));
    const uint64_t number = found->second.number;
    ncclResult_t result = call(found->second.comm, pair.debtor == options_.rank ? kCreditor : kDebtor);
    const absl::Time accept_by = clock_.Now() + options_.call_timeout;
    while (result == ncclInProgress && clock_.Now() < accept_by) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
      found = pairs_.find(pair);
      if (found == pairs_.end() || found->second.number != number)
        return absl::UnavailableError(absl::StrCat(Name(pair), ": ", name, ": the pair was closed"));
      const ncclResult_t asked = nccl_.CommGetAsyncError(found->second.comm, &result);
      if (asked != ncclSuccess) result = asked;
    }
    if (result == ncclSuccess) return absl::OkStatus();
    std::string why = result == ncclInProgress ? absl::StrCat(name, " was not accepted in ",
                                                              absl::FormatDuration(options_.call_timeout))
                                               : std::string(nccl_.ToStatus(result, name).message());
    CloseLocked(pair);
    return absl::UnavailableError(absl::StrCat(Name(pair), ": ", why));
  }

  const NcclLibrary nccl_;
  const NcclOptions options_;
  const Clock& clock_;
  Aborts aborts_;
  mutable std::mutex mutex_;  // held while NCCL is called, which returns at once; not while it is waited for
  uint64_t opened_ = 0;
  std::map<LoanPair, Pair> pairs_;
};

}  // namespace

std::unique_ptr<Collectives> MakeNcclCollectives(const NcclLibrary& library, const NcclOptions& options,
                                                 const Clock* clock) {
  return std::make_unique<NcclCollectives>(library, options, clock);
}

}  // namespace lombard
