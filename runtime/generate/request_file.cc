#include "runtime/generate/request_file.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/engine/philox.h"

namespace lombard {
namespace {

using nlohmann::json;

constexpr size_t kIdBytesMax = 1024;
constexpr size_t kShownBytesMax = 64;  // of a wrong value in an error message

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// A value for an error message: containers by kind only, since they may be huge or deeply nested.
std::string Shown(const json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  std::string text = Dump(value);
  if (text.size() > kShownBytesMax) text = absl::StrCat(text.substr(0, kShownBytesMax), "...");
  return text;
}

absl::Status WrongType(const char* field, const json& value, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", Shown(value), "; it must be ", wanted));
}

// Finds a field that is there and not null.
const json* Find(const json& object, const char* field) {
  const auto at = object.find(field);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

absl::Status ReadBool(const json& object, const char* field, bool* out) {
  const json* value = Find(object, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return WrongType(field, *value, "true or false");
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadDouble(const json& object, const char* field, double* out) {
  const json* value = Find(object, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return WrongType(field, *value, "a number");
  *out = value->get<double>();
  return absl::OkStatus();
}

// 16 and 16.0 are the same number in JSON.
template <typename Int>
bool IntegerIn(const json& value, Int* out) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    *out = static_cast<Int>(number);
    return number <= static_cast<uint64_t>(std::numeric_limits<Int>::max());
  }
  if (!value.is_number()) return false;
  const double number = value.get<double>();
  // Compared as doubles below 2^53, where every integer is exact; beyond, only the integer forms are taken.
  if (number != std::floor(number) || std::abs(number) > 0x1p53) return false;
  if (number < static_cast<double>(std::numeric_limits<Int>::min())) return false;
  if (number > static_cast<double>(std::numeric_limits<Int>::max())) return false;
  *out = static_cast<Int>(number);
  return true;
}

template <typename Int>
absl::Status ReadInt(const json& object, const char* field, Int* out) {
  const json* value = Find(object, field);
  if (value == nullptr || IntegerIn(*value, out)) return absl::OkStatus();
  return WrongType(field, *value,
                   absl::StrCat("a whole number between ", std::numeric_limits<Int>::min(), " and ",
                                std::numeric_limits<Int>::max()));
}

// Any 64-bit integer; a negative one is taken as its two's complement.
absl::Status ReadSeed(const json& object, std::optional<uint64_t>* out) {
  const json* value = Find(object, "seed");
  if (value == nullptr) return absl::OkStatus();
  if (value->is_number_integer()) {
    *out =
        value->is_number_unsigned() ? value->get<uint64_t>() : static_cast<uint64_t>(value->get<int64_t>());
    return absl::OkStatus();
  }
  int64_t number;
  if (!IntegerIn(*value, &number)) return WrongType("seed", *value, "a whole number of 64 bits");
  *out = static_cast<uint64_t>(number);
  return absl::OkStatus();
}

absl::Status ReadIds(const char* field, const json& list, std::vector<int32_t>* out) {
  out->clear();
  out->reserve(list.size());
  for (const json& item : list) {
    int32_t id;
    if (!IntegerIn(item, &id) || id < 0) {
      return absl::InvalidArgumentError(absl::StrCat(field, "[", out->size(), "] is ", Shown(item),
                                                     "; a token id is a whole number from 0"));
    }
    out->push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ReadStops(const json& body, SamplingParams* sampling) {
  if (const json* stop = Find(body, "stop"); stop != nullptr) {
    sampling->stop.clear();
    if (stop->is_string()) {
      sampling->stop.push_back(stop->get<std::string>());
    } else if (stop->is_array()) {
      for (const json& item : *stop) {
        if (!item.is_string()) return WrongType("an entry of stop", item, "a string");
        sampling->stop.push_back(item.get<std::string>());
      }
    } else {
      return WrongType("stop", *stop, "a string or a list of strings");
    }
  }
  if (const json* ids = Find(body, "stop_token_ids"); ids != nullptr) {
    if (!ids->is_array()) return WrongType("stop_token_ids", *ids, "a list of token ids");
    RETURN_IF_ERROR(ReadIds("stop_token_ids", *ids, &sampling->stop_token_ids));
  }
  return absl::OkStatus();
}

absl::Status ReadLogprobs(const json& body, SamplingParams* sampling) {
  const json* value = Find(body, "logprobs");
  if (value == nullptr) return absl::OkStatus();
  int count = 0;
  if (value->is_boolean()) {
    sampling->logprobs = value->get<bool>() ? std::optional<int>(0) : std::nullopt;
  } else if (IntegerIn(*value, &count)) {
    sampling->logprobs = count;
  } else {
    return WrongType("logprobs", *value, "a whole number, true or false");
  }
  return absl::OkStatus();
}

// Fields of the API and its common extensions that would change the answer and that this version does not
// have.
absl::Status RefuseUnsupported(const json& body, int n) {
  const auto refuse = [](absl::string_view field, absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(field, " is not supported: ", why));
  };
  if (body.contains("messages"))
    return refuse("messages", "there are no chat templates; give the whole text as prompt");
  bool echo = false;
  RETURN_IF_ERROR(ReadBool(body, "echo", &echo));
  if (echo) return refuse("echo", "the output holds generated text only");
  if (const json* suffix = Find(body, "suffix"); suffix != nullptr && *suffix != "")
    return refuse("suffix", "text is only appended");
  if (const json* bias = Find(body, "logit_bias"); bias != nullptr && !bias->empty())
    return refuse("logit_bias", "leave it out");
  int best_of = n;
  RETURN_IF_ERROR(ReadInt(body, "best_of", &best_of));
  if (best_of != n) return refuse("best_of", absl::StrCat("it is ", best_of, ", not n, which is ", n));
  bool beam_search = false;
  RETURN_IF_ERROR(ReadBool(body, "use_beam_search", &beam_search));
  if (beam_search) return refuse("use_beam_search", "tokens are sampled");
  for (const char* field : {"response_format", "guided_json", "guided_regex", "guided_choice",
                            "guided_grammar", "structured_outputs", "bad_words", "allowed_token_ids",
                            "prompt_logprobs", "prompt_embeds", "truncate_prompt_tokens"}) {
    const json* value = Find(body, field);
    if (value == nullptr || (value->is_object() && value->value("type", json()) == "text")) continue;
    return refuse(field, "leave it out");
  }
  return absl::OkStatus();
}

absl::Status ReadPrompt(const json& body, GenerateRequest* request) {
  const json* prompt = Find(body, "prompt");
  if (prompt == nullptr)
    return absl::InvalidArgumentError("there is no prompt; it must be a string or a list of token ids");
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt is a list of ", prompt->size(), " prompts; give each a line of its own"));
    }
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    request->prompt = prompt->get<std::string>();
    return absl::OkStatus();
  }
  if (!prompt->is_array()) return WrongType("prompt", *prompt, "a string or a list of token ids");
  if (prompt->empty())
    return absl::InvalidArgumentError("prompt is an empty list; it needs at least one token id");
  request->prompt = std::vector<int32_t>();
  return ReadIds("prompt", *prompt, &std::get<1>(request->prompt));
}

absl::Status ReadBody(const json& body, const RequestDefaults& defaults, GenerateRequest* request) {
  SamplingParams& s = request->sampling;
  RETURN_IF_ERROR(ReadInt(body, "n", &s.n));
  RETURN_IF_ERROR(RefuseUnsupported(body, s.n));
  RETURN_IF_ERROR(ReadPrompt(body, request));
  RETURN_IF_ERROR(ReadBool(body, "add_special_tokens", &request->add_special_tokens));
  RETURN_IF_ERROR(ReadInt(body, "max_tokens", &s.max_tokens));
  RETURN_IF_ERROR(ReadInt(body, "min_tokens", &s.min_tokens));
  RETURN_IF_ERROR(ReadDouble(body, "temperature", &s.temperature));
  RETURN_IF_ERROR(ReadInt(body, "top_k", &s.top_k));
  RETURN_IF_ERROR(ReadDouble(body, "top_p", &s.top_p));
  RETURN_IF_ERROR(ReadDouble(body, "min_p", &s.min_p));
  RETURN_IF_ERROR(ReadDouble(body, "repetition_penalty", &s.repetition_penalty));
  RETURN_IF_ERROR(ReadDouble(body, "presence_penalty", &s.presence_penalty));
  RETURN_IF_ERROR(ReadDouble(body, "frequency_penalty", &s.frequency_penalty));
  RETURN_IF_ERROR(ReadBool(body, "ignore_eos", &s.ignore_eos));
  RETURN_IF_ERROR(ReadBool(body, "skip_special_tokens", &s.skip_special_tokens));
  RETURN_IF_ERROR(ReadStops(body, &s));
  RETURN_IF_ERROR(ReadLogprobs(body, &s));
  if (const json* salt = Find(body, "cache_salt"); salt != nullptr) {
    if (!salt->is_string()) return WrongType("cache_salt", *salt, "a string");
    request->cache_salt = salt->get<std::string>();
  }
  std::optional<uint64_t> seed = defaults.seed;
  RETURN_IF_ERROR(ReadSeed(body, &seed));
  if (seed) {
    s.seed = *seed;
  } else {
    const auto words =
        Philox({static_cast<uint32_t>(request->line), static_cast<uint32_t>(request->line >> 32), 0, 0}, {});
    s.seed = (uint64_t{words[0]} << 32) | words[1];
  }
  return s.Validate();
}

absl::Status ReadId(const json& object, const char* field, GenerateRequest* request) {
  const json* id = Find(object, field);
  if (id == nullptr) return absl::OkStatus();
  if (!id->is_string() && !id->is_number()) return WrongType(field, *id, "a string or a number");
  std::string text = Dump(*id);
  if (text.size() > kIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", text.size(), " bytes; at most ", kIdBytesMax));
  }
  request->id_json = std::move(text);
  return absl::OkStatus();
}

absl::Status ReadRequest(const json& object, const RequestDefaults& defaults, GenerateRequest* request) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a line must be a JSON object, this one is ", Shown(object)));
  }
  const bool batch_form = object.contains("custom_id") || object.contains("body");
  RETURN_IF_ERROR(ReadId(object, batch_form ? "custom_id" : "id", request));
  if (!batch_form) return ReadBody(object, defaults, request);

  const json* method = Find(object, "method");
  if (method != nullptr && *method != "POST") return WrongType("method", *method, "\"POST\"");
  const json* url = Find(object, "url");
  if (url != nullptr && *url == "/v1/chat/completions") {
    return absl::InvalidArgumentError(
        "url /v1/chat/completions is not supported: there are no chat templates; use /v1/completions with "
        "the whole text as prompt");
  }
  if (url == nullptr) return absl::InvalidArgumentError("there is no url; it must be \"/v1/completions\"");
  if (*url != "/v1/completions") return WrongType("url", *url, "\"/v1/completions\"");
  const json* body = Find(object, "body");
  if (body == nullptr) return absl::InvalidArgumentError("there is no body");
  if (!body->is_object()) return WrongType("body", *body, "an object");
  return ReadBody(*body, defaults, request);
}

absl::StatusOr<json> ParseJson(absl::string_view text) {
  try {
    return json::parse(text.begin(), text.end());
  } catch (const json::exception& error) {
    // The library's text starts with its own error number in brackets and may quote the line; the rest says
    // where and why.
    absl::string_view what = error.what();
    if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON: ", what.substr(0, 300)));
  }
}

void SetError(const absl::Status& status, GenerateRequest* request) {
  request->error = RequestError{.message = absl::StrCat("line ", request->line, ": ", status.message())};
}

}  // namespace

GenerateRequest ParseRequestLine(absl::string_view text, uint64_t line, const RequestDefaults& defaults) {
  GenerateRequest request{
      .id_json = absl::StrCat("\"line-", line, "\""), .line = line, .sampling = defaults.sampling};
  const absl::StatusOr<json> object = ParseJson(text);
  const absl::Status status = object.ok() ? ReadRequest(*object, defaults, &request) : object.status();
  if (!status.ok()) SetError(status, &request);
  return request;
}

std::vector<GenerateRequest> ParseRequests(absl::string_view text, const RequestDefaults& defaults) {
  std::vector<GenerateRequest> requests;
  absl::flat_hash_map<std::string, uint64_t> line_of_id;
  for (uint64_t line = 1; !text.empty(); ++line) {
    const size_t end = text.find('\n');
    const absl::string_view one = text.substr(0, end);
    text = end == text.npos ? absl::string_view() : text.substr(end + 1);
    if (absl::StripAsciiWhitespace(one).empty()) continue;
    GenerateRequest request = ParseRequestLine(one, line, defaults);
    const auto [first, is_new] = line_of_id.emplace(request.id_json, line);
    if (!is_new && !request.error) {
      SetError(absl::InvalidArgumentError(
                   absl::StrCat("the id ", request.id_json, " is already that of line ", first->second)),
               &request);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

absl::StatusOr<std::vector<GenerateRequest>> ReadRequestFile(const std::string& path,
                                                             const RequestDefaults& defaults) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  return ParseRequests(text, defaults);
}

}  // namespace lombard
