#include "fabric/make_transport.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "fabric/loopback_transport.h"
#if LOMBARD_UCX
#include "fabric/ucx/ucx_transport.h"
#endif

namespace lombard {

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(Bootstrap& bootstrap,
                                                            [[maybe_unused]] const UcxOptions& options) {
  const JobLayout layout = bootstrap.layout();
  if (layout.size == 1) return std::move(MakeLoopbackTransports(1)[0]);
#if LOMBARD_UCX
  ASSIGN_OR_RETURN(
      const UcxProfile profile,
      ChooseUcxProfile(InspectUcxHost(/*single_host=*/layout.local_size == layout.size), options.profile));
  ASSIGN_OR_RETURN(std::unique_ptr<UcxTransport> transport, UcxTransport::Create(profile));
  ASSIGN_OR_RETURN(const std::vector<std::string> addresses,
                   bootstrap.AllGather(transport->address(), options.deadline));
  RETURN_IF_ERROR(transport->Connect(layout.rank, addresses));
  return transport;
#else
  return absl::UnimplementedError(
      absl::StrCat("a job of ", layout.size,
                   " ranks, but built without UCX: build with -DLOMBARD_UCX=ON, or use --in-process"));
#endif
}

}  // namespace lombard
