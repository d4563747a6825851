// Any bytes as a safetensors file: an error that names the file, or tensors that lie back to back within it.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "runtime/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header =
      lombard::ParseSafetensors({reinterpret_cast<const std::byte*>(data), size}, size, "fuzz.safetensors");
  if (!header.ok()) {
    CHECK(header.status().message().find("fuzz.safetensors") != absl::string_view::npos) << header.status();
    return 0;
  }
  uint64_t end = header->tensors.empty() ? size : header->tensors[0].begin;
  CHECK_GE(end, 8u);
  for (const lombard::TensorInfo& tensor : header->tensors) {
    CHECK_EQ(tensor.begin, end) << tensor.name;
    CHECK_LE(tensor.begin, tensor.end) << tensor.name;
    end = tensor.end;
  }
  CHECK_EQ(end, size);
  return 0;
}
