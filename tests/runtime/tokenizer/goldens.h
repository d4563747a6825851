// tests/data/tokenizer_goldens.json: small tokenizer.json documents, each about one feature, with what the
// reference implementation makes of hard texts (tools/tokenizer_check/make_goldens.py).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace lombard {

struct GoldenDocument {
  std::string name;
  std::string tokenizer_json;
  nlohmann::json results;
};

struct Goldens {
  std::vector<std::string> texts;
  std::vector<GoldenDocument> documents;
};

// With `model`, every document gets that model instead of its own.
inline Goldens LoadGoldens(const nlohmann::json* model = nullptr) {
  const auto text = ReadWholeFile("tests/data/tokenizer_goldens.json");
  CHECK_OK(text.status());
  const nlohmann::json file = nlohmann::json::parse(*text);
  Goldens goldens;
  goldens.texts = file["texts"].get<std::vector<std::string>>();
  for (const nlohmann::json& entry : file["documents"]) {
    nlohmann::json document = entry["document"];
    document["model"] = model != nullptr ? *model : file["models"][std::string(entry["model"])];
    goldens.documents.push_back({entry["name"], document.dump(), entry["results"]});
  }
  return goldens;
}

}  // namespace lombard
