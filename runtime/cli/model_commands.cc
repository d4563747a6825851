#include "runtime/cli/model_commands.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/model/create.h"
#include "runtime/model/inspect.h"
#include "runtime/model/tokenizer/tokenizer.h"

namespace lombard {

std::optional<ExitRequest> CheckModelCreate(const ModelCreateOptions& options) {
  const std::vector<std::string> names = PresetNames();
  if (std::find(names.begin(), names.end(), options.preset) != names.end()) return std::nullopt;
  return ExitRequest{2, absl::StrCat("lombard model create: --preset: '", options.preset, "' is none of ",
                                     absl::StrJoin(names, ", "), "\n")};
}

absl::Status RunModelCreate(const ModelCreateOptions& options, std::ostream& out) {
  RETURN_IF_ERROR(CreateModel(options.preset, options.output, options.seed));
  return RunModelInspect({.dir = options.output}, out);
}

absl::Status RunModelInspect(const ModelInspectOptions& options, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::string text, InspectModel(options.dir));
  out << text;
  return absl::OkStatus();
}

absl::Status RunModelTokenize(const ModelTokenizeOptions& options, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(options.dir));
  ASSIGN_OR_RETURN(const std::string text, ReadDescriptor(STDIN_FILENO, "standard input"));
  out << "[" << absl::StrJoin(tokenizer->Encode(text, /*add_special_tokens=*/false), ", ") << "]\n";
  return absl::OkStatus();
}

}  // namespace lombard
