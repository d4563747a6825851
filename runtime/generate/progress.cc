#include "runtime/generate/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lombard {
namespace {

constexpr int kBarColumns = 20;
constexpr int kColumnsUnknown = 80;
constexpr int kColumnsMax = 512;
constexpr absl::Duration kDrawInterval = absl::Milliseconds(100);

int TerminalColumns(std::FILE* out) {
  winsize size;
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumnsUnknown;
  return std::min<int>(size.ws_col, kColumnsMax);
}

}  // namespace

std::string FormatProgress(const ProgressState& state, int columns) {
  const double share = state.requests_total == 0 ? 1
                                                 : static_cast<double>(state.requests_done) /
                                                       static_cast<double>(state.requests_total);
  const int filled = std::clamp(static_cast<int>(share * kBarColumns), 0, kBarColumns);
  std::string line = absl::StrCat("[", std::string(filled, '='));
  if (filled < kBarColumns) absl::StrAppend(&line, ">", std::string(kBarColumns - filled - 1, ' '));
  absl::StrAppendFormat(&line, "] %d/%d requests  %.1f tokens/s", state.requests_done, state.requests_total,
                        state.tokens_per_s);
  if (!state.ranks.empty()) line += "  KV";
  for (const ProgressState::KvUse& rank : state.ranks) {
    absl::StrAppend(&line, " ", rank.capacity_tokens == 0 ? 0 : rank.used_tokens * 100 / rank.capacity_tokens,
                    "%");
  }
  absl::StrAppend(&line, "  lent ", state.tokens_lent, " tokens");
  if (line.size() > columns) {
    line.resize(std::max(columns, 0));
    std::fill(line.end() - std::min<size_t>(line.size(), 2), line.end(), '.');
  }
  return line;
}

ProgressLine::ProgressLine(std::FILE* out) : out_(out), visible_(isatty(fileno(out)) == 1) {}

ProgressLine::~ProgressLine() {
  if (drawn_) std::fputs("\n", out_), std::fflush(out_);
}

void ProgressLine::Update(const ProgressState& state, absl::Time now) {
  if (!visible_ || (now < next_ && state.requests_done < state.requests_total)) return;
  next_ = now + kDrawInterval;
  drawn_ = true;
  // The last column stays free: some terminals wrap when it is written. "\x1b[K" clears what a longer line
  // left.
  std::fprintf(out_, "\r%s\x1b[K", FormatProgress(state, TerminalColumns(out_) - 1).c_str());
  std::fflush(out_);
}

void ProgressLine::Clear() {
  if (drawn_) std::fputs("\r\x1b[K", out_), std::fflush(out_);
  drawn_ = false;
}

}  // namespace lombard
