// Small files as strings.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace lombard {

// The content of a file, pipe or device, read to its end. Errors name the path: kNotFound, kPermissionDenied,
// or as errno says.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// The same of an open descriptor; `name` stands for it in errors. Does not close it.
absl::StatusOr<std::string> ReadDescriptor(int fd, const std::string& name);

// "what 'path': reason" from errno, with the code that fits.
absl::Status ErrnoStatus(int error, absl::string_view what, const std::string& path);

}  // namespace lombard
