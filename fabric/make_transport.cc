#include "fabric/make_transport.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "fabric/loopback_transport.h"
#if LOMBARD_UCX
#include "fabric/ucx/job_address.h"
#include "fabric/ucx/ucx_transport.h"
#endif

namespace lombard {

absl::StatusOr<Fabric> MakeUcxTransport(Bootstrap& bootstrap, [[maybe_unused]] const UcxOptions& options) {
  const JobLayout layout = bootstrap.layout();
  if (layout.size == 1 && options.size_max <= 1) {
    return Fabric{.transport = std::move(MakeLoopbackTransports(1)[0]), .job = 0, .addresses = {}};
  }
#if LOMBARD_UCX
  const bool single_host = layout.local_size == layout.size && options.only_this_host;
  ASSIGN_OR_RETURN(const UcxProfile profile, ChooseUcxProfile(InspectUcxHost(single_host), options.profile));
  ASSIGN_OR_RETURN(std::unique_ptr<UcxTransport> transport, UcxTransport::Create(profile));
  ASSIGN_OR_RETURN(std::vector<std::string> addresses,
                   bootstrap.AllGather(transport->address(), options.deadline));
  RETURN_IF_ERROR(transport->Connect(layout.rank, addresses, options.size_max));
  const uint32_t job = JobFingerprint(addresses);
  return Fabric{.transport = std::move(transport), .job = job, .addresses = std::move(addresses)};
#else
  return absl::UnimplementedError(
      absl::StrCat("a job of ", layout.size,
                   " ranks, but built without UCX: build with -DLOMBARD_UCX=ON, or use --in-process"));
#endif
}

#if LOMBARD_UCX
namespace {

class UcxJoiningFabric final : public JoiningFabric {
 public:
  explicit UcxJoiningFabric(std::unique_ptr<UcxTransport> transport) : transport_(std::move(transport)) {}
  const std::string& address() const override { return transport_->address(); }
  absl::StatusOr<std::unique_ptr<Transport>> Join(const FabricPlace& place) override {
    RETURN_IF_ERROR(transport_->Join(place));
    return std::move(transport_);
  }

 private:
  std::unique_ptr<UcxTransport> transport_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<JoiningFabric>> MakeJoiningFabric(const std::string& profile,
                                                                 bool single_host) {
  ASSIGN_OR_RETURN(const UcxProfile chosen, ChooseUcxProfile(InspectUcxHost(single_host), profile));
  ASSIGN_OR_RETURN(std::unique_ptr<UcxTransport> transport, UcxTransport::Create(chosen));
  return std::make_unique<UcxJoiningFabric>(std::move(transport));
}
#else
absl::StatusOr<std::unique_ptr<JoiningFabric>> MakeJoiningFabric(const std::string&, bool) {
  return absl::UnimplementedError("joining a job takes UCX: build with -DLOMBARD_UCX=ON");
}
#endif

}  // namespace lombard
