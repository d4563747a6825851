#include "gmanager/prefix_planner.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace lombard {
namespace {

struct Reader {
  const PrefixState* instance;
  uint32_t readers, blocks;
};

// A prefix as the cluster sees it.
struct Hot {
  double rows = 0;
  uint32_t copies = 0;
  std::vector<Reader> elsewhere;  // who reads it, and has it not
};

}  // namespace

double CopyRows(uint64_t keys, const PrefixPlanOptions& options) {
  return static_cast<double>(keys) * options.kv_bytes / (options.wire.query_bytes + options.wire.state_bytes);
}

std::vector<PrefixCopy> PlanCopies(absl::Span<const PrefixState> states,
                                   const std::map<uint64_t, uint32_t>& advised,
                                   const PrefixPlanOptions& options) {
  std::vector<PrefixCopy> plan;
  if (options.kv_bytes <= 0) return plan;
  std::map<uint64_t, Hot> prefixes;
  for (const PrefixState& instance : states) {
    for (const auto& [name, use] : instance.prefixes) {
      Hot& hot = prefixes[name];
      hot.rows += static_cast<double>(use.rows);
      hot.copies += use.here;
      if (!use.here && use.readers > 0) hot.elsewhere.push_back({&instance, use.readers, use.blocks});
    }
  }
  std::set<InstanceId> receiving;
  for (auto& [name, hot] : prefixes) {
    const auto spent = advised.find(name);
    const uint32_t had = std::max(hot.copies, spent == advised.end() ? 1 : spent->second + 1);
    std::stable_sort(hot.elsewhere.begin(), hot.elsewhere.end(),
                     [](const Reader& a, const Reader& b) { return a.readers > b.readers; });
    for (const Reader& reader : hot.elsewhere) {
      if (plan.size() == options.copies_max) return plan;
      const double rows_there = hot.rows / (had + 1);
      if (rows_there < CopyRows(uint64_t{reader.blocks} * options.block_tokens, options)) break;
      if (reader.instance->blocks_free <= reader.blocks || receiving.contains(reader.instance->id)) continue;
      receiving.insert(reader.instance->id);
      plan.push_back({name, reader.instance->id, reader.blocks});
      break;  // the next one in the next plan, when this one counts
    }
  }
  return plan;
}

}  // namespace lombard
