#include "fabric/host_name.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace lombard {

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

std::string HostKey() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  return absl::StrCat(HostName(), "/", boot_id);
}

JobLayout MakeLayout(int rank, const std::vector<std::string>& host_keys) {
  const std::string& own = host_keys[rank];
  JobLayout layout;
  layout.rank = rank;
  layout.size = static_cast<int>(host_keys.size());
  layout.local_rank = static_cast<int>(std::count(host_keys.begin(), host_keys.begin() + rank, own));
  layout.local_size = static_cast<int>(std::count(host_keys.begin(), host_keys.end(), own));
  layout.host = own.substr(0, own.find('/'));
  return layout;
}

std::string FirstHost(absl::string_view list) {
  std::string out;
  for (size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    if (list[i] != '[') {
      out += list[i];
      continue;
    }
    const size_t close = std::min(list.find(']', i), list.size());
    const absl::string_view ranges = list.substr(i + 1, close - i - 1);
    absl::StrAppend(&out, ranges.substr(0, ranges.find_first_of(",-")));
    i = close;
  }
  return out;
}

}  // namespace lombard
