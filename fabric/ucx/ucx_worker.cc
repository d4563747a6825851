#include "fabric/ucx/ucx_worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace lombard {
namespace {

// UCX cannot be waited for while it has sends that only polling can move (a full shared-memory queue of a
// peer that does not read). A nap of this length between turns keeps such a peer from costing a core.
constexpr absl::Duration kBusyNap = absl::Microseconds(200);

// UCX warns about settings of transports that it does not open.
bool IsRead(absl::string_view key, absl::string_view transports) {
  const auto opens = [&](std::initializer_list<const char*> names) {
    return absl::StrContains(transports, "all") || absl::StrContains(transports, "^") ||
           std::any_of(names.begin(), names.end(),
                       [&](const char* name) { return absl::StrContains(transports, name); });
  };
  if (absl::ConsumePrefix(&key, "UCX_"); absl::StartsWith(key, "TCP_")) return opens({"tcp"});
  return !absl::StartsWith(key, "MM_") || opens({"posix", "sysv", "shm", "sm", "mm"});
}

std::string Transports(const UcxProfile& profile) {
  if (const char* of_user = getenv("UCX_TLS")) return of_user;
  for (const auto& [key, value] : profile.config) {
    if (key == "TLS") return value;
  }
  return "all";
}

}  // namespace

absl::Status UcxError(ucs_status_t status, absl::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(what, ": UCX says '", ucs_status_string(status), "'"));
}

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(const UcxProfile& profile) {
  const std::string transports = Transports(profile);
  for (const auto& [key, value] : profile.environment) {
    if (IsRead(key, transports)) setenv(key.c_str(), value.c_str(), /*overwrite=*/0);
  }
  ucp_config_t* config = nullptr;
  RETURN_IF_ERROR(UcxError(ucp_config_read(nullptr, nullptr, &config), "reading the UCX settings"));
  const auto release = absl::MakeCleanup([&] { ucp_config_release(config); });
  for (const auto& [key, value] : profile.config) {
    if (getenv(absl::StrCat("UCX_", key).c_str()) != nullptr || !IsRead(key, transports))
      continue;  // the user knows better
    RETURN_IF_ERROR(UcxError(ucp_config_modify(config, key.c_str(), value.c_str()),
                             absl::StrCat("UCX setting ", key, "=", value)));
  }
  std::unique_ptr<UcxWorker> worker(new UcxWorker);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  RETURN_IF_ERROR(UcxError(ucp_init(&params, config, &worker->context_), "starting UCX"));
  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // made on one thread, polled by another
  RETURN_IF_ERROR(
      UcxError(ucp_worker_create(worker->context_, &worker_params, &worker->worker_), "making a UCX worker"));
  RETURN_IF_ERROR(
      UcxError(ucp_worker_get_efd(worker->worker_, &worker->ucx_fd_), "the UCX event descriptor"));
  worker->wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (worker->wake_fd_ < 0) return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", strerror(errno)));
  return worker;
}

UcxWorker::~UcxWorker() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
  if (wake_fd_ >= 0) close(wake_fd_);
}

absl::StatusOr<std::string> UcxWorker::Address() const {
  ucp_address_t* address = nullptr;
  size_t length = 0;
  RETURN_IF_ERROR(UcxError(ucp_worker_get_address(worker_, &address, &length), "the UCX address"));
  std::string out(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker_, address);
  return out;
}

bool UcxWorker::MovesCudaMemory() const {
  ucp_context_attr_t attributes{};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  return ucp_context_query(context_, &attributes) == UCS_OK &&
         (attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
}

void UcxWorker::Wait(absl::Duration wait, int other_fd, std::mutex& calls,
                     absl::FunctionRef<bool()> has_work) {
  // Announced before the last look at the work, while Wake looks at the announcement after the work was
  // written: one of the two sees the other.
  waiting_.store(true);
  const auto done = absl::MakeCleanup([this] { waiting_.store(false); });
  if (has_work()) return;
  const bool busy = [&] {
    const std::lock_guard lock(calls);
    return ucp_worker_arm(worker_) != UCS_OK;
  }();
  if (busy) wait = std::min(wait, kBusyNap);
  pollfd fds[3] = {{wake_fd_, POLLIN, 0}, {other_fd, POLLIN, 0}, {ucx_fd_, POLLIN, 0}};
  const timespec timeout = absl::ToTimespec(std::clamp(wait, absl::ZeroDuration(), absl::Hours(1)));
  if (ppoll(fds, busy ? 2 : 3, &timeout, nullptr) > 0 && fds[0].revents != 0) {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(wake_fd_, &count, sizeof(count));
  }
}

void UcxWorker::Wake() {
  if (!waiting_.load()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = write(wake_fd_, &one, sizeof(one));  // a full counter wakes as well
}

}  // namespace lombard
