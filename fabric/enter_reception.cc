#include "fabric/enter_reception.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "fabric/host_name.h"

namespace lombard {

std::string WhoAmI() { return absl::StrCat(HostName(), " pid ", getpid()); }

absl::StatusOr<TcpStream> EnterReception(const ReceptionRules& rules, const GuestHello& hello,
                                         const std::string& host, int port, absl::Time deadline) {
  ASSIGN_OR_RETURN(TcpStream stream, TcpStream::Connect(host, port, deadline));
  const Guest guest(&rules, hello, MakeNonce());
  RETURN_IF_ERROR(stream.WriteFrame(guest.Greeting(), deadline));
  ASSIGN_OR_RETURN(const std::string challenge, stream.ReadFrame(kReceptionFrameBytesMax, deadline));
  ASSIGN_OR_RETURN(const std::string answer, guest.OnChallenge(challenge));
  RETURN_IF_ERROR(stream.WriteFrame(answer, deadline));
  return stream;
}

}  // namespace lombard
