// Any bytes as an input file: each line becomes a request or an error, and a request without error is valid.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "runtime/generate/request_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const lombard::GenerateRequest& request :
       lombard::ParseRequests({reinterpret_cast<const char*>(data), size}, lombard::RequestDefaults())) {
    CHECK(!request.id_json.empty());
    if (request.error) {
      CHECK(!request.error->message.empty());
    } else {
      CHECK_OK(request.sampling.Validate());
    }
  }
  return 0;
}
