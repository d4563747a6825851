// A shared library that is looked for at run time, so that the program starts without it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lombard {

// A handle; copies name the same library. Never unloaded: drivers do not survive it well. Thread-safe.
class DynamicLibrary {
 public:
  // The first of `names` (sonames or paths) that loads. kUnavailable says why each did not.
  static absl::StatusOr<DynamicLibrary> Open(const std::vector<std::string>& names);

  // *function = the symbol. kUnavailable when the library lacks it: another version.
  template <class F>
  absl::Status Load(const char* symbol, F** function) const {
    return Find(symbol, reinterpret_cast<void**>(function));
  }
  const std::string& name() const { return name_; }

 private:
  absl::Status Find(const char* symbol, void** address) const;

  void* handle_ = nullptr;
  std::string name_;
};

}  // namespace lombard
