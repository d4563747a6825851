#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/generate/output_file.h"

namespace lombard {
namespace {

using Json = nlohmann::ordered_json;

// The double whose shortest form is the shortest form of the float: -0.1, not -0.10000000149011612.
Json ShortFloat(float value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  double shortest = value;
  std::from_chars(text, end, shortest);
  return shortest;
}

void AddSample(const SampleResult& sample, bool logprobs, Json* out) {
  (*out)["text"] = sample.text;
  (*out)["token_ids"] = sample.token_ids;
  (*out)["finish_reason"] = sample.finish_reason;
  if (!logprobs) return;
  Json token_logprobs = Json::array(), top = Json::array();
  bool any_top = false;
  for (const float logprob : sample.token_logprobs) token_logprobs.push_back(ShortFloat(logprob));
  for (const auto& best : sample.top_logprobs) {
    Json entry = Json::object();
    for (const auto& [id, logprob] : best) entry[absl::StrCat("token_id:", id)] = ShortFloat(logprob);
    any_top = any_top || !best.empty();
    top.push_back(std::move(entry));
  }
  Json& all = (*out)["logprobs"];
  all["token_logprobs"] = std::move(token_logprobs);
  if (any_top) all["top_logprobs"] = std::move(top);
}

}  // namespace

std::string ResultLine(const std::string& id_json, const GenerateResult& result) {
  Json line;
  line["id"] = nullptr;
  if (result.error) {
    line["error"] = {{"type", result.error->type}, {"message", result.error->message}};
  } else {
    CHECK(!result.samples.empty());
    AddSample(result.samples[0], result.logprobs, &line);
    size_t completion_tokens = 0;
    for (const SampleResult& sample : result.samples) completion_tokens += sample.token_ids.size();
    if (result.samples.size() > 1) {
      for (size_t i = 0; i < result.samples.size(); ++i) {
        Json choice;
        choice["index"] = i;
        AddSample(result.samples[i], result.logprobs, &choice);
        line["choices"].push_back(std::move(choice));
      }
    }
    line["usage"] = {{"prompt_tokens", result.prompt_tokens}, {"completion_tokens", completion_tokens}};
    line["timing"] = {{"ttft_s", result.ttft_s}, {"tpot_s", result.tpot_s}, {"e2e_s", result.e2e_s}};
  }
  // The id is put in as the text it came as, so that 7, 7.0 and "7" come back as they were.
  constexpr absl::string_view kStart = R"({"id":null)";
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace);
  return absl::StrCat(R"({"id":)", id_json, absl::string_view(text).substr(kStart.size()));
}

}  // namespace lombard
