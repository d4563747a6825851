// Any text as config.json, with what follows a zero byte as generation_config.json: an error, or a config
// whose parts fit together and whose sizes can be multiplied.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "runtime/model/create.h"
#include "runtime/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const std::string generation = zero == text.npos ? "" : text.substr(zero + 1);
  const auto config = lombard::ParseModelConfig(text.substr(0, zero), generation);
  if (!config.ok()) {
    CHECK(config.status().message().find("config.json") != absl::string_view::npos) << config.status();
    return 0;
  }
  CHECK_EQ(config->layer_windows.size(), config->layers);
  CHECK_EQ(config->rope.inv_freq.size(), config->head_dim / 2);
  CHECK_EQ(config->q_heads % config->kv_heads, 0);
  CHECK_GT(config->KvBytesPerToken(lombard::DType::kF32), 0);
  for (const int32_t id : config->eos_token_ids) CHECK(id >= 0 && id < config->vocab_size) << id;
  for (const lombard::TensorSpec& tensor : lombard::TensorsOf(*config))
    CHECK_GT(tensor.bytes(), 0) << tensor.name;
  return 0;
}
