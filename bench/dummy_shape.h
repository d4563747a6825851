// A model of a public shape (runtime/model/presets.h) without weights, for benchmarks that make some up.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/model/dummy_model.h"
#include "runtime/model/presets.h"

namespace lombard::bench {

inline std::unique_ptr<Model> DummyModelOf(const std::string& preset) {
  const std::filesystem::path dir =
      std::filesystem::temp_directory_path() / absl::StrCat("lombard-bench-", getpid());
  std::filesystem::create_directories(dir);
  for (const ModelPreset& one : Presets())
    if (preset == one.name) std::ofstream(dir / "config.json") << PresetConfigJson(one);
  auto model = MakeDummyModel(dir.string());
  std::filesystem::remove_all(dir);
  CHECK_OK(model.status()) << preset;
  return *std::move(model);
}

}  // namespace lombard::bench
