#include "base/dynamic_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace lombard {

absl::StatusOr<DynamicLibrary> DynamicLibrary::Open(const std::vector<std::string>& names) {
  std::string reasons;
  for (const std::string& name : names) {
    DynamicLibrary library;
    library.handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle_ != nullptr) {
      library.name_ = name;
      return library;
    }
    const char* const reason = dlerror();
    absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", reason == nullptr ? name.c_str() : reason);
  }
  return absl::UnavailableError(absl::StrCat("no library loads: ", reasons));
}

absl::Status DynamicLibrary::Find(const char* symbol, void** address) const {
  *address = dlsym(handle_, symbol);
  if (*address != nullptr) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(name_, " has no '", symbol, "': this version of the library does not fit"));
}

}  // namespace lombard
