// MPI for what it is good at, launching and one exchange. Rank 0 collects point to point, so that it can say
// who is missing where a collective would only hang; every wait is a test in a loop with a deadline, and
// sleeps.
#include <mpi.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "fabric/bootstrap.h"
#include "fabric/host_name.h"

namespace lombard {
namespace {

constexpr absl::Duration kPauseMin = absl::Microseconds(20), kPauseMax = absl::Milliseconds(2);

// Quiet and light: MPI's own fast paths would open UCX a second time, probe devices, and warn about what a
// container lacks.
void SetDefaults() {
  const std::pair<const char*, const char*> settings[] = {
      {"OMPI_MCA_pml", "ob1"},
      {"OMPI_MCA_btl", "self,vader,tcp"},
      {"OMPI_MCA_osc", "^ucx"},
      {"OMPI_MCA_btl_base_warn_component_unused", "0"},
      {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},
      {"OMPI_MCA_mpi_yield_when_idle", "1"}};
  for (const auto& [name, value] : settings) setenv(name, value, /*overwrite=*/0);
}

absl::Status MpiError(int code, absl::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(absl::StrCat(what, ": MPI says '", absl::string_view(text, length), "'"));
}

class MpiBootstrap final : public Bootstrap {
 public:
  absl::Status Start() {
    SetDefaults();
    int provided = 0;
    RETURN_IF_ERROR(MpiError(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init"));
    RETURN_IF_ERROR(MpiError(MPI_Comm_dup(MPI_COMM_WORLD, &job_), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(job_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(job_, &layout_.rank);
    MPI_Comm_size(job_, &layout_.size);
    MPI_Comm host = MPI_COMM_NULL;
    RETURN_IF_ERROR(MpiError(MPI_Comm_split_type(job_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
                             "MPI_Comm_split_type"));
    MPI_Comm_rank(host, &layout_.local_rank);
    MPI_Comm_size(host, &layout_.local_size);
    MPI_Comm_free(&host);
    layout_.host = HostName();
    return absl::OkStatus();
  }

  JobLayout layout() const override { return layout_; }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view mine, absl::Duration wait) override {
    if (mine.size() > kBootstrapEntryBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("an entry of ", mine.size(), " bytes, at most ", kBootstrapEntryBytesMax));
    }
    const absl::Time deadline = absl::Now() + wait;
    ++round_;
    return layout_.rank == 0 ? Collect(mine, deadline, wait) : Contribute(mine, deadline, wait);
  }

  void Finish(bool clean) override {
    if (clean) MPI_Finalize();
  }

 private:
  // Calls attempt() until it is done, sleeping ever longer between; false at the deadline.
  static absl::StatusOr<bool> Until(absl::Time deadline, absl::FunctionRef<absl::StatusOr<bool>()> attempt) {
    for (absl::Duration pause = kPauseMin;; pause = std::min(2 * pause, kPauseMax)) {
      ASSIGN_OR_RETURN(const bool done, attempt());
      if (done || absl::Now() >= deadline) return done;
      absl::SleepFor(pause);
    }
  }

  static absl::StatusOr<bool> Test(MPI_Request& request) {
    int done = 0;
    RETURN_IF_ERROR(MpiError(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "the exchange of addresses"));
    return done != 0;
  }

  // A message of this round, if one is here; blocks on nothing but its last bytes.
  absl::StatusOr<bool> TryReceive(int from, std::string& bytes, int& sender, absl::Time deadline) {
    int here = 0, length = 0;
    MPI_Message message;
    MPI_Status status;
    RETURN_IF_ERROR(
        MpiError(MPI_Improbe(from, round_, job_, &here, &message, &status), "the exchange of addresses"));
    if (!here) return false;
    MPI_Get_count(&status, MPI_BYTE, &length);
    bytes.resize(length);
    sender = status.MPI_SOURCE;
    MPI_Request request;
    RETURN_IF_ERROR(MpiError(MPI_Imrecv(bytes.data(), length, MPI_BYTE, &message, &request),
                             "the exchange of addresses"));
    return Until(deadline, [&] { return Test(request); });
  }

  absl::StatusOr<std::vector<std::string>> Collect(absl::string_view mine, absl::Time deadline,
                                                   absl::Duration wait) {
    std::vector<std::string> entries(layout_.size);
    std::vector<bool> here(layout_.size);
    entries[0] = std::string(mine);
    here[0] = true;
    ASSIGN_OR_RETURN(const bool complete, Until(deadline, [&]() -> absl::StatusOr<bool> {
                       std::string bytes;
                       int sender = 0;
                       while (true) {
                         ASSIGN_OR_RETURN(const bool got,
                                          TryReceive(MPI_ANY_SOURCE, bytes, sender, deadline));
                         if (!got) break;
                         entries[sender] = std::move(bytes);
                         here[sender] = true;
                       }
                       return std::count(here.begin(), here.end(), true) == layout_.size;
                     }));
    if (!complete) {
      std::vector<int> absent;
      for (int i = 0; i < layout_.size; ++i) {
        if (!here[i]) absent.push_back(i);
      }
      return absl::DeadlineExceededError(absl::StrCat(
          "after ", absl::FormatDuration(wait), " nothing came from rank ", absl::StrJoin(absent, ", ")));
    }
    table_.clear();  // kept as a member: a send that is given up may still be read
    for (const std::string& entry : entries) {
      const uint32_t length = static_cast<uint32_t>(entry.size());
      table_.append(reinterpret_cast<const char*>(&length), sizeof(length));
      table_.append(entry);
    }
    std::vector<MPI_Request> requests(layout_.size, MPI_REQUEST_NULL);
    for (int i = 1; i < layout_.size; ++i) {
      RETURN_IF_ERROR(MpiError(
          MPI_Isend(table_.data(), static_cast<int>(table_.size()), MPI_BYTE, i, round_, job_, &requests[i]),
          "the exchange of addresses"));
    }
    ASSIGN_OR_RETURN(
        const bool sent, Until(deadline, [&]() -> absl::StatusOr<bool> {
          int done = 0;
          RETURN_IF_ERROR(MpiError(MPI_Testall(layout_.size, requests.data(), &done, MPI_STATUSES_IGNORE),
                                   "the exchange of addresses"));
          return done != 0;
        }));
    if (!sent)
      return absl::DeadlineExceededError(
          absl::StrCat("not all ranks took the addresses within ", absl::FormatDuration(wait)));
    return entries;
  }

  absl::StatusOr<std::vector<std::string>> Contribute(absl::string_view mine, absl::Time deadline,
                                                      absl::Duration wait) {
    mine_ = std::string(mine);
    MPI_Request request;
    RETURN_IF_ERROR(
        MpiError(MPI_Isend(mine_.data(), static_cast<int>(mine_.size()), MPI_BYTE, 0, round_, job_, &request),
                 "the exchange of addresses"));
    std::string table;
    int sender = 0;
    bool sent = false;
    ASSIGN_OR_RETURN(const bool complete, Until(deadline, [&]() -> absl::StatusOr<bool> {
                       if (!sent) {
                         ASSIGN_OR_RETURN(sent, Test(request));
                       }
                       return TryReceive(0, table, sender, deadline);
                     }));
    if (!complete) {
      return absl::DeadlineExceededError(
          absl::StrCat("rank ", layout_.rank, " got no addresses from rank 0 within ",
                       absl::FormatDuration(wait), ": rank 0 or another rank does not come"));
    }
    if (!sent) RETURN_IF_ERROR(Until(deadline, [&] { return Test(request); }).status());
    std::vector<std::string> entries;
    for (size_t at = 0; at < table.size();) {
      uint32_t length;
      if (table.size() - at < sizeof(length)) break;
      std::memcpy(&length, table.data() + at, sizeof(length));
      entries.push_back(table.substr(at + sizeof(length), length));
      at += sizeof(length) + length;
    }
    if (entries.size() != layout_.size)
      return absl::DataLossError("rank 0 sent a table that makes no sense: not the same build?");
    return entries;
  }

  MPI_Comm job_ = MPI_COMM_NULL;
  JobLayout layout_;
  int round_ = 0;  // the tag: what belongs to which AllGather
  std::string mine_, table_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Bootstrap>> MakeMpiBootstrap() {
  auto bootstrap = std::make_unique<MpiBootstrap>();
  RETURN_IF_ERROR(bootstrap->Start());
  return bootstrap;
}

}  // namespace lombard
