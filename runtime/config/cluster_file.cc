#include "runtime/config/cluster_file.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <functional>
#include <sstream>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"

namespace lombard {
namespace {

constexpr struct {
  Policy policy;
  absl::string_view name;
} kPolicies[] = {{Policy::kNone, "none"},
                 {Policy::kStatic, "static"},
                 {Policy::kGreedy, "greedy"},
                 {Policy::kLombard, "lombard"}};

// Longest value of a key that an error message repeats.
constexpr size_t kShownBytesMax = 64;

// One file being read: knows its name, for errors.
class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  absl::Status Error(const YAML::Mark& mark, absl::string_view what) const {
    // A null mark (an empty document) has line -1.
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ":", mark.line < 0 ? 1 : mark.line + 1, ": ", what));
  }

  // A key and what to do with its value. An absent or null value is not visited.
  struct Field {
    absl::string_view key;
    std::function<absl::Status(const YAML::Node&)> read;
  };

  absl::Status ReadMap(const YAML::Node& node, absl::string_view where,
                       const std::vector<Field>& fields) const {
    if (!node.IsMap()) return Error(node.Mark(), absl::StrCat(where, " must be a map of keys and values"));
    absl::flat_hash_set<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
      const Field* field = nullptr;
      for (const Field& f : fields) {
        if (f.key == key) field = &f;
      }
      if (field == nullptr) {
        return Error(entry.first.Mark(),
                     absl::StrCat("unknown key '", Cut(key), "' in ", where, "; known are ",
                                  absl::StrJoin(fields, ", ", [](std::string* out, const Field& f) {
                                    absl::StrAppend(out, f.key);
                                  })));
      }
      if (!seen.insert(key).second)
        return Error(entry.first.Mark(), absl::StrCat("key '", key, "' appears twice in ", where));
      if (entry.second.IsNull()) continue;
      RETURN_IF_ERROR(field->read(entry.second));
    }
    return absl::OkStatus();
  }

  // A list: `read` for each entry.
  Field List(absl::string_view key, std::function<absl::Status(const YAML::Node&)> read) const {
    return {key, [this, key, read](const YAML::Node& node) -> absl::Status {
              if (!node.IsSequence()) return Error(node.Mark(), absl::StrCat(key, " must be a list"));
              for (const YAML::Node& item : node) RETURN_IF_ERROR(read(item));
              return absl::OkStatus();
            }};
  }

  // A scalar that `parse` turns from text into a StatusOr of something assignable to *out.
  template <typename Out, typename Parse>
  Field Scalar(absl::string_view key, Out* out, Parse parse) const {
    return {key, [this, key, out, parse](const YAML::Node& node) -> absl::Status {
              if (!node.IsScalar()) return Error(node.Mark(), absl::StrCat(key, " must be a single value"));
              auto value = parse(node.Scalar());
              if (!value.ok()) return Error(node.Mark(), absl::StrCat(key, ": ", value.status().message()));
              *out = *std::move(value);
              return absl::OkStatus();
            }};
  }

  template <typename Out>
  Field Whole(absl::string_view key, Out* out, uint64_t min, uint64_t max) const {
    return Scalar(key, out, [min, max](const std::string& text) -> absl::StatusOr<uint64_t> {
      uint64_t value;
      if (absl::SimpleAtoi(text, &value) && value >= min && value <= max) return value;
      return absl::InvalidArgumentError(
          absl::StrCat("'", Cut(text), "' is not a whole number between ", min, " and ", max));
    });
  }

  template <typename Enum>
  Field Choice(absl::string_view key, Enum* out,
               std::vector<std::pair<absl::string_view, Enum>> choices) const {
    return Scalar(key, out, [choices](const std::string& text) -> absl::StatusOr<Enum> {
      for (const auto& [name, value] : choices) {
        if (text == name) return value;
      }
      return absl::InvalidArgumentError(absl::StrCat(
          "'", Cut(text), "' is none of ",
          absl::StrJoin(choices, ", ", [](std::string* s, const auto& c) { absl::StrAppend(s, c.first); })));
    });
  }

  static std::string Cut(const std::string& text) {
    return text.size() <= kShownBytesMax ? text : absl::StrCat(text.substr(0, kShownBytesMax), "...");
  }

 private:
  const std::string& name_;
};

absl::StatusOr<uint64_t> ParsePositiveBytes(const std::string& text) {
  ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes(text));
  if (bytes == 0) return absl::InvalidArgumentError("'0' leaves no memory; it must be above 0");
  return bytes;
}

absl::StatusOr<double> ParsePositiveBandwidth(const std::string& text) {
  ASSIGN_OR_RETURN(const double bandwidth, ParseBandwidth(text));
  if (bandwidth <= 0) return absl::InvalidArgumentError(absl::StrCat("'", text, "' must be above 0"));
  return bandwidth;
}

absl::StatusOr<absl::Duration> ParsePeriod(const std::string& text) {
  ASSIGN_OR_RETURN(const absl::Duration period, ParseDuration(text));
  if (period < absl::Milliseconds(1) || period > absl::Hours(1)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' must be between 1ms and 1h"));
  }
  return period;
}

absl::StatusOr<absl::Duration> ParseLatency(const std::string& text) { return ParseDuration(text); }
absl::StatusOr<double> ParseShare(const std::string& text) { return ParseFraction(text); }
absl::StatusOr<std::string> AnyText(const std::string& text) { return text; }

absl::Status ReadInstance(const Reader& in, const YAML::Node& node, ClusterConfig* config) {
  constexpr uint64_t kTokensMax = uint64_t{1} << 48;
  InstanceConfig instance;
  RETURN_IF_ERROR(in.ReadMap(
      node, "an entry of instances",
      {in.Whole("ranks", &instance.ranks, 1, kRanksMax),
       in.Choice("device", &instance.device, {{"cpu", DeviceKind::kCpu}, {"cuda", DeviceKind::kCuda}}),
       in.Whole("threads", &instance.threads, 1, kThreadsMax),
       in.Whole("kv_tokens", &instance.kv_tokens, 1, kTokensMax),
       in.Scalar("kv_bytes", &instance.kv_bytes, ParsePositiveBytes),
       in.Scalar("host", &instance.host, AnyText)}));
  if (instance.kv_tokens && instance.kv_bytes) {
    return in.Error(node.Mark(), "an entry of instances has kv_tokens and kv_bytes; keep one of them");
  }
  config->instances.push_back(std::move(instance));
  if (config->RankCount() > kRanksMax)
    return in.Error(node.Mark(), absl::StrCat("more than ", kRanksMax, " ranks in all"));
  return absl::OkStatus();
}

absl::Status ReadLending(const Reader& in, const YAML::Node& node, LendingConfig* lending) {
  std::vector<std::pair<absl::string_view, Policy>> policies;
  for (const auto& p : kPolicies) policies.emplace_back(p.name, p.policy);
  return in.ReadMap(
      node, "lending",
      {in.Choice("policy", &lending->policy, policies), in.Scalar("reserve", &lending->reserve, ParseShare),
       in.Scalar("lent_max", &lending->lent_max, ParseShare),
       in.Scalar("plan_period", &lending->plan_period, ParsePeriod),
       in.Whole("decode_move_tokens", &lending->decode_move_tokens, 0, 1 << 20),
       in.Scalar("guard", &lending->guard, ParseShare)});
}

absl::Status ReadLink(const Reader& in, const YAML::Node& node, ClusterConfig* config) {
  LinkConfig link;
  RETURN_IF_ERROR(in.ReadMap(
      node, "an entry of links",
      {in.Choice("between", &link.between, {{"host", LinkScope::kHost}, {"network", LinkScope::kNetwork}}),
       in.Scalar("bandwidth", &link.bandwidth, ParsePositiveBandwidth),
       in.Scalar("latency", &link.latency, ParseLatency)}));
  for (const LinkConfig& earlier : config->links) {
    if (earlier.between == link.between)
      return in.Error(node.Mark(), "links has two entries for the same 'between'");
  }
  config->links.push_back(link);
  return absl::OkStatus();
}

// Where documents begin; the rest of the events is not looked at.
class DocumentMarks : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { last_ = mark; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
  const YAML::Mark& last() const { return last_; }

 private:
  YAML::Mark last_;
};

// By hand, at most two steps: YAML::LoadAll of yaml-cpp 0.7 never ends on some texts, such as one with a
// stray closing bracket.
absl::Status CheckOneDocument(const Reader& in, absl::string_view text) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  DocumentMarks marks;
  if (parser.HandleNextDocument(marks) && parser.HandleNextDocument(marks)) {
    return in.Error(marks.last(), "a second YAML document begins here; a cluster file has one");
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view PolicyName(Policy policy) {
  for (const auto& p : kPolicies) {
    if (p.policy == policy) return p.name;
  }
  return "unknown";
}

std::optional<Policy> PolicyFromName(absl::string_view name) {
  for (const auto& p : kPolicies) {
    if (p.name == name) return p.policy;
  }
  return std::nullopt;
}

uint32_t ClusterConfig::RankCount() const {
  uint32_t count = 0;
  for (const InstanceConfig& instance : instances) count += instance.ranks;
  return count;
}

absl::StatusOr<ClusterConfig> ParseClusterFile(absl::string_view text, const std::string& name) {
  const Reader in(name);
  ClusterConfig config;
  try {
    RETURN_IF_ERROR(CheckOneDocument(in, text));
    const YAML::Node document = YAML::Load(std::string(text));
    if (document.IsNull()) return config;
    RETURN_IF_ERROR(in.ReadMap(
        document, "the cluster file",
        {in.List("instances", [&](const YAML::Node& node) { return ReadInstance(in, node, &config); }),
         {"lending", [&](const YAML::Node& node) { return ReadLending(in, node, &config.lending); }},
         in.List("links", [&](const YAML::Node& node) { return ReadLink(in, node, &config); })}));
  } catch (const YAML::Exception& error) {
    return in.Error(error.mark, absl::StrCat("not valid YAML: ", error.msg));
  }
  return config;
}

absl::StatusOr<ClusterConfig> ReadClusterFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  return ParseClusterFile(text, path);
}

}  // namespace lombard
