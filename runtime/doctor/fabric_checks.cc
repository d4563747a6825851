// What ranks talk through: MPI, UCX, network interfaces.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/doctor/checks.h"
#ifdef LOMBARD_HAS_MPI
#include <mpi.h>
#endif
#ifdef LOMBARD_HAS_UCX
#include <ucp/api/ucp.h>
#endif

extern char** environ;

namespace lombard::doctor {
namespace {

bool IsSet(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && absl::string_view(value) != "" && absl::string_view(value) != "0";
}

[[maybe_unused]] std::string Variables(absl::string_view prefix) {
  std::vector<std::string> found;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (absl::StartsWith(*entry, prefix)) found.emplace_back(*entry);
  }
  return absl::StrJoin(found, " ");
}

}  // namespace

Finding JudgeRootVariables(bool is_root, bool allow, bool confirm) {
  Finding finding{Level::kOk, "MPI as root", is_root ? "both variables are set" : "not root", ""};
  if (is_root && (!allow || !confirm)) {
    finding.level = Level::kWarning;
    finding.text =
        absl::StrCat("mpirun refuses root: OMPI_ALLOW_RUN_AS_ROOT", allow ? "_CONFIRM" : "",
                     !allow && !confirm ? " and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM are" : " is", " not set");
    finding.remedy = "start jobs with launch/run, which sets both, or export both as 1";
  }
  return finding;
}

void CheckMpi(Findings& findings) {
#ifdef LOMBARD_HAS_MPI
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);  // may be called before MPI_Init
  const std::vector<std::string> words = absl::StrSplit(absl::string_view(version, length), ',');
  findings.push_back({Level::kOk, "MPI", words[0], ""});
#else
  findings.push_back({Level::kWarning, "MPI", "not in this build",
                      "build with -DLOMBARD_MPI=ON, or start ranks with srun --mpi=none"});
#endif
  const char* path = std::getenv("PATH");
  if (const auto mpirun = FindProgram("mpirun", path == nullptr ? "" : path)) {
    findings.push_back({Level::kOk, "mpirun", *mpirun, ""});
  } else {
    findings.push_back({Level::kWarning, "mpirun",
                        "not in PATH: one rank and --in-process work, several ranks do not",
                        "launch/install_packages, or srun"});
  }
  if (const char* ranks = std::getenv("OMPI_COMM_WORLD_SIZE")) {
    findings.push_back({Level::kOk, "MPI job", absl::StrCat("this is one of ", ranks, " ranks"), ""});
  } else {
    findings.push_back(JudgeRootVariables(geteuid() == 0, IsSet("OMPI_ALLOW_RUN_AS_ROOT"),
                                          IsSet("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")));
  }
}

Finding JudgeTransports(const std::vector<std::string>& resources) {
  bool shared = false, between = false;
  for (const std::string& resource : resources) {
    shared = shared || absl::StartsWith(resource, "posix/") || absl::StartsWith(resource, "sysv/");
    between = between || (!absl::StartsWith(resource, "self/") && !absl::StartsWith(resource, "posix/") &&
                          !absl::StartsWith(resource, "sysv/") && !absl::StartsWith(resource, "cma/") &&
                          resource != "tcp/lo");
  }
  Finding finding{Level::kOk, "transports", absl::StrJoin(resources, " "), ""};
  const bool loopback = absl::StrContains(finding.text, "tcp/lo");
  if (!shared && !between && !loopback) {
    finding.level = Level::kProblem;
    finding.text = absl::StrCat("UCX offers nothing that connects two processes: ", finding.text);
    finding.remedy = "unset UCX_TLS and UCX_NET_DEVICES, or let them name posix and tcp";
  } else if (!between) {
    finding.level = Level::kWarning;
    finding.remedy =
        "ranks of this host only; for several hosts, bring up an interface that UCX_NET_DEVICES allows";
  } else if (!shared) {
    finding.level = Level::kWarning;
    finding.remedy = "ranks of one host talk over tcp, about ten times slower; check /dev/shm and UCX_TLS";
  }
  return finding;
}

void CheckUcx(const Host& host, Findings& findings) {
#ifdef LOMBARD_HAS_UCX
  findings.push_back({Level::kOk, "UCX", ucp_get_version_string(), ""});
  if (const std::string variables = Variables("UCX_"); !variables.empty()) {
    findings.push_back({Level::kOk, "UCX settings", variables, ""});
  }
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  ucp_context_h context = nullptr;
  if (status == UCS_OK) {
    ucp_params_t params = {};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM;
    status = ucp_init(&params, config, &context);
    ucp_config_release(config);
  }
  if (status != UCS_OK) {
    findings.push_back({Level::kProblem, "transports",
                        absl::StrCat("UCX does not start: ", ucs_status_string(status)),
                        "check the UCX_* variables (none are needed), /dev/shm and the interfaces"});
    return;
  }
  char* text = nullptr;
  size_t size = 0;
  if (FILE* stream = open_memstream(&text, &size)) {
    ucp_context_print_info(context, stream);
    std::fclose(stream);
    findings.push_back(JudgeTransports(UcxResources(absl::string_view(text, size))));
    std::free(text);
  }
  ucp_cleanup(context);
#else
  findings.push_back({Level::kWarning, "UCX", "not in this build: one rank and --in-process only",
                      "build with -DLOMBARD_UCX=ON"});
#endif
  const auto retries = host.Read("/proc/sys/net/ipv4/tcp_retries2");
  if (retries) {
    findings.push_back(
        {Level::kOk, "TCP",
         absl::StrCat("tcp_retries2 ", *retries, "; cut links are found by heartbeats, not by it"), ""});
  }
}

Findings JudgeInterfaces(const std::vector<Interface>& interfaces) {
  std::vector<std::string> routable, host_only;
  for (const Interface& interface : interfaces) {
    if (interface.loopback) continue;
    (IsHostOnlyInterface(interface.name) ? host_only : routable)
        .push_back(absl::StrCat(interface.name, " ", interface.address));
  }
  Findings findings;
  if (routable.empty()) {
    findings.push_back({Level::kOk, "network", "no interface to other hosts: jobs on this host only", ""});
  } else {
    std::string text = absl::StrJoin(routable, ", ");
    if (routable.size() > 1)
      absl::StrAppend(&text, "; that of the default route unless launch/run --interface says");
    findings.push_back({Level::kOk, "network", std::move(text), ""});
  }
  if (!host_only.empty()) {
    const std::string use = routable.empty() ? "NAME" : routable[0].substr(0, routable[0].find(' '));
    findings.push_back({Level::kWarning, "network",
                        absl::StrCat(absl::StrJoin(host_only, ", "),
                                     ": other hosts cannot reach it, yet mpirun may choose it"),
                        absl::StrCat("for several hosts name the right one: launch/run --interface ", use)});
  }
  return findings;
}

void CheckNetwork(const Host& host, Findings& findings) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) {
    findings.push_back(
        {Level::kWarning, "network", "the interfaces cannot be listed", "check the container's rights"});
    return;
  }
  std::vector<Interface> interfaces;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET || !(entry->ifa_flags & IFF_UP))
      continue;
    char address[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, address,
              sizeof(address));
    std::string text = address;
    const auto speed =
        host.Read(absl::StrCat("/sys/class/net/", entry->ifa_name, "/speed"));  // Mbit/s, -1 unknown
    if (speed && !speed->empty() && (*speed)[0] != '-') absl::StrAppend(&text, " (", *speed, " Mbit/s)");
    interfaces.push_back({entry->ifa_name, text, (entry->ifa_flags & IFF_LOOPBACK) != 0});
  }
  freeifaddrs(list);
  for (Finding& finding : JudgeInterfaces(interfaces)) findings.push_back(std::move(finding));
}

}  // namespace lombard::doctor
