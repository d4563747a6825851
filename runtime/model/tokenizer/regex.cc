#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/model/tokenizer/regex.h"

#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "runtime/model/tokenizer/unicode.h"

namespace lombard::tokenization {
namespace {

// Backtracking steps for one match, and memory for the interpreter and the JIT stack. Tokenizer patterns stay
// far below; the limits keep a hostile pattern from taking the process with it. Guesses, not tuned.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackMin = 32 * 1024;
constexpr size_t kJitStackMax = 1024 * 1024;

// Oniguruma reads "[" inside a class as a nested class and "&&" as an intersection; PCRE2 would take both
// literally.
absl::Status RefuseForeignClasses(absl::string_view pattern) {
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (!in_class) {
      if (c != '[') continue;
      in_class = true;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') ++i;
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') ++i;  // A first ] is literal.
    } else if (c == ']') {
      in_class = false;
    } else if (c == '[' && i + 1 < pattern.size() && pattern[i + 1] == ':') {
      const size_t close = pattern.find(":]", i + 2);
      if (close == absl::string_view::npos) return absl::OkStatus();  // PCRE2 reports it.
      i = close + 1;
    } else if (c == '[' || (c == '&' && i + 1 < pattern.size() && pattern[i + 1] == '&')) {
      return absl::InvalidArgumentError(
          absl::StrCat("pattern \"", pattern, "\": at ", i,
                       ": nested and intersected character classes are not supported"));
    }
  }
  return absl::OkStatus();
}

// What one scan needs beside the pattern.
struct Scratch {
  Scratch(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr)) {
    CHECK(data != nullptr && context != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  RETURN_IF_ERROR(RefuseForeignClasses(pattern));
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                   &offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("pattern \"", pattern, "\": at ", offset, ": ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // Where it fails, pcre2_match interprets.
  return Regex(code);
}

void Regex::ForEachMatch(absl::string_view text, absl::FunctionRef<void(size_t, size_t)> found) const {
  const Scratch scratch(code_.get());
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(scratch.data);
  const auto match = [&](size_t from, uint32_t options) {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | options, scratch.data, scratch.context);
  };
  size_t from = 0;
  size_t last_end = static_cast<size_t>(-1);
  while (from <= text.size()) {
    int result = match(from, 0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(from, PCRE2_NO_JIT);
    if (result < 0) return;  // No match, or a limit was hit.
    const size_t begin = span[0], end = span[1];
    if (begin > end || begin < from) return;  // Only \K inside a lookaround does this.
    if (end > begin || begin != last_end) found(begin, end);
    last_end = end;
    // After an empty match the search goes on behind the next character.
    from = end > begin ? end : end == text.size() ? end + 1 : end + ReadCodePoint(text, end).bytes;
  }
}

}  // namespace lombard::tokenization
