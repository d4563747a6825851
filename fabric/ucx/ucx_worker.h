// UCX context and worker with a wait that does not spin. All calls but Wake belong to one thread at a time;
// while one waits, others may make them.
#pragma once

#include <ucp/api/ucp.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fabric/ucx/profile.h"

namespace lombard {

absl::Status UcxError(ucs_status_t status, absl::string_view what);

class UcxWorker {
 public:
  // Sets environment variables (see UcxProfile): to be called before threads exist that read the environment.
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const UcxProfile& profile);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  ucp_worker_h get() const { return worker_; }
  absl::StatusOr<std::string> Address() const;
  bool MovesCudaMemory() const;
  // One turn; false when there was nothing to do.
  bool Progress() { return ucp_worker_progress(worker_) != 0; }
  // Blocks until UCX has something to do, `other_fd` (if not -1) is readable, Wake is called, or `wait` has
  // passed; returns at once when has_work(), which may read what other threads write before they call Wake.
  // `calls` is held by whoever calls UCX, and not while waiting.
  void Wait(absl::Duration wait, int other_fd, std::mutex& calls, absl::FunctionRef<bool()> has_work);
  // Any thread. Cheap when nobody waits.
  void Wake();

 private:
  UcxWorker() = default;

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int ucx_fd_ = -1, wake_fd_ = -1;
  std::atomic<bool> waiting_{false};
};

}  // namespace lombard
