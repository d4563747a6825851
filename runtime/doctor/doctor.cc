#include "runtime/doctor/doctor.h"

#include <sys/utsname.h>

#include "runtime/doctor/checks.h"

namespace lombard {

int RunDoctor(std::ostream& out) {
  const doctor::Host host;
  doctor::Findings findings;
  utsname system = {};
  if (uname(&system) == 0) {
    findings.push_back(
        {doctor::Level::kOk, "host",
         std::string(system.nodename) + ", " + system.sysname + " " + system.release + " " + system.machine,
         ""});
  }
  CheckCores(host, findings);
  CheckMemory(host, findings);
  doctor::CheckLimits(findings);
  doctor::CheckGpus(findings);
  doctor::CheckMpi(findings);
  CheckUcx(host, findings);
  CheckNetwork(host, findings);
  doctor::CheckSlurm(findings);
  CheckClock(host, findings);
  Print(findings, out);
  return HasProblem(findings) ? 1 : 0;
}

}  // namespace lombard
