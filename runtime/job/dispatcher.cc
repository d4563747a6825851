#include "runtime/job/dispatcher.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/worker/convert.h"

namespace lombard {

namespace {

std::vector<uint32_t> BlocksOf(const std::vector<Router::Instance>& instances,
                               const std::optional<PrefixSpace>& prefixes) {
  std::vector<uint32_t> blocks;
  for (const Router::Instance& instance : instances) {
    const uint64_t count = prefixes.has_value() ? instance.capacity / prefixes->block_tokens : 0;
    blocks.push_back(static_cast<uint32_t>(std::min<uint64_t>(count, UINT32_MAX)));
  }
  return blocks;
}

}  // namespace

Dispatcher::Dispatcher(std::vector<Router::Instance> instances, const Options& options)
    : options_(options),
      outbox_(Value(options.incarnation)),
      router_(instances),
      index_(BlocksOf(instances, options.prefixes)),
      members_(instances.size()),
      leaving_(instances.size(), 0) {
  for (size_t i = 0; i < instances.size(); ++i) router_.SetAlive(InstanceId(i), false);
}

void Dispatcher::Submit(SequenceRequest request, absl::Time now, std::optional<InstanceId> home) {
  const RequestId id = request.id;
  const auto [it, is_new] = open_.try_emplace(id, Open{.request = std::move(request), .wanted = home});
  CHECK(is_new) << id;
  if (started_) Place(it->second, now);
}

// Gives it to an instance, or notes since when there is none.
void Dispatcher::Place(Open& open, absl::Time now) {
  const std::vector<uint64_t> names = BlockNames(open.request);
  std::vector<uint64_t> cached(members_.size(), 0);
  for (size_t i = 0; i < cached.size() && !names.empty(); ++i)
    cached[i] = uint64_t{index_.CachedBlocks(InstanceId(i), names)} * options_.prefixes->block_tokens;
  const std::optional<Router::Choice> choice = router_.Pick(open.tokens_max(), open.wanted, cached);
  if (!choice.has_value()) {
    if (!open.too_small_since.has_value()) open.too_small_since = now;
    return;
  }
  open.home = choice->home;
  open.charge = choice->charge;
  // Who else has more of it than home; home knows best what it has itself.
  uint32_t most = index_.OwnBlocks(*open.home, names);
  std::optional<InstanceId> holder;
  for (size_t i = 0; i < members_.size(); ++i) {
    const uint32_t blocks = IsAlive(InstanceId(i)) ? index_.OwnBlocks(InstanceId(i), names) : 0;
    if (blocks > most) most = blocks, holder = InstanceId(i);
  }
  open.request.prefix.reset();
  if (holder.has_value()) open.request.prefix = {*holder, most * options_.prefixes->block_tokens};
  index_.Use(*open.home, names, holder.has_value() ? most : 0);
  open.too_small_since.reset();
  open.incarnation = members_[Value(*open.home)].incarnation;
  messages::SubmitSequence& submit = *outbox_.Add(static_cast<int>(Value(*open.home))).mutable_submit();
  ToMessage(open.request, &submit);
  if (options_.bug == PlantedBug::kReplayFromPrompt) submit.clear_output();
  submit.set_to_incarnation(Value(open.incarnation));
}

void Dispatcher::LeaveHome(Open& open) {
  if (open.home.has_value()) router_.Done({*open.home, open.charge});
  open.home.reset();
}

std::vector<uint64_t> Dispatcher::BlockNames(const SequenceRequest& request) const {
  if (!options_.prefixes.has_value()) return {};
  std::vector<int32_t> tokens = request.prompt;
  tokens.insert(tokens.end(), request.output.begin(), request.output.end());
  return HashFullBlocks(*options_.prefixes, request.cache_salt, tokens);
}

bool Dispatcher::Fits(const Open& open) const {
  return open.tokens_max() <= router_.Reachable(*open.home) || open.tokens_max() > router_.ReachableMax();
}

void Dispatcher::OnTokens(int from, uint64_t incarnation, const messages::TokenBatch& batch, absl::Time) {
  for (const messages::TokenEvent& event : batch.events()) {
    const auto it = open_.find({event.arrival_us(), event.number()});
    const bool from_home = it != open_.end() && it->second.home == InstanceId(from) &&
                           Value(it->second.incarnation) == incarnation;
    const bool taken = from_home || (it != open_.end() && options_.bug == PlantedBug::kTokensOfAnyone);
    if (!taken) {
      counters_.stale_tokens += event.has_token();
      continue;
    }
    Open& open = it->second;
    SequenceOutput output = FromMessage(event);
    if (output.token.has_value()) {
      if (output.index < open.request.output.size()) {
        ++counters_.copied_tokens;
        continue;
      }
      if (output.index > open.request.output.size()) {
        broken_.push_back(from);
        return;
      }
      open.request.output.push_back(*output.token);
    }
    const bool finished = output.finished;
    outputs_.push_back(std::move(output));
    if (!finished) continue;
    if (from_home) {  // a chat goes on with it; what it read elsewhere lies there still
      const auto& read = open.request.prefix;
      index_.Use(*open.home, BlockNames(open.request),
                 read.has_value() ? read->tokens / options_.prefixes->block_tokens : 0);
    }
    LeaveHome(open);
    open_.erase(it);
  }
}

void Dispatcher::OnHandBack(int from, uint64_t incarnation, const messages::HandBack& back, absl::Time now) {
  const InstanceId home{static_cast<uint32_t>(from)};
  // Its word that it leaves may be on another way.
  leaving_[Value(home)] = std::max(leaving_[Value(home)], incarnation);
  router_.SetAlive(home, IsAlive(home));
  for (const messages::HandBack::Sequence& sequence : back.sequences()) {
    const auto it = open_.find({sequence.arrival_us(), sequence.number()});
    if (it == open_.end() || it->second.home != home || Value(it->second.incarnation) != incarnation)
      continue;
    LeaveHome(it->second);
    it->second.request.lost_home.reset();
    ++counters_.handed_back;
    Place(it->second, now);
  }
}

void Dispatcher::OnMembers(const std::vector<Membership::Member>& members, absl::Time now) {
  CHECK_EQ(members.size(), members_.size());
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].incarnation != members_[i].incarnation || members[i].state != members_[i].state)
      index_.Forget(InstanceId(i));
  }
  members_ = members;
  if (!first_members_.has_value()) first_members_ = now;
  for (size_t i = 0; i < members.size(); ++i) {
    router_.SetAlive(InstanceId(i), IsAlive(InstanceId(i)));
    if (options_.size_of && members[i].kv_blocks > 0) {
      router_.SetSize(InstanceId(i), options_.size_of(members[i].kv_blocks));
      if (options_.prefixes.has_value()) index_.Resize(InstanceId(i), members[i].kv_blocks);
    }
  }
  if (!started_) return Tick(now);
  for (auto& [id, open] : open_) {
    if (!open.home.has_value()) {
      if (options_.bug != PlantedBug::kForgetHomeless) Place(open, now);
    } else if (!members_[Value(*open.home)].belongs() ||
               open.incarnation != members_[Value(*open.home)].incarnation) {
      open.request.lost_home = LostHome{*open.home, open.incarnation};
      LeaveHome(open);
      ++counters_.replayed;
      counters_.replayed_tokens += open.request.prompt.size() + open.request.output.size();
      Place(open, now);
    } else if (Fits(open)) {
      open.too_small_since.reset();
    } else if (!open.too_small_since.has_value()) {
      open.too_small_since = now;
    }
  }
}

void Dispatcher::Tick(absl::Time now) {
  if (!started_) {
    if (!first_members_.has_value()) return;
    const bool everyone = std::none_of(members_.begin(), members_.end(), [](const Membership::Member& m) {
      return m.state == Membership::State::kExpected;
    });
    started_ = everyone || now - *first_members_ >= options_.start_wait;
    if (!started_) return;
    for (auto& [id, open] : open_) Place(open, now);
  }
  for (auto it = open_.begin(); it != open_.end();) {
    const std::optional<absl::Time>& since = it->second.too_small_since;
    it = since.has_value() && now - *since >= options_.recovery_wait ? Fail(it) : std::next(it);
  }
}

absl::Time Dispatcher::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, open] : open_) {
    if (open.too_small_since.has_value())
      next = std::min(next, *open.too_small_since + options_.recovery_wait);
  }
  return next;
}

// Nobody wants the rest of it.
void Dispatcher::TellHome(const RequestId& id, const Open& open) {
  if (!open.home.has_value()) return;
  messages::CancelSequence& cancel = *outbox_.Add(static_cast<int>(Value(*open.home))).mutable_cancel();
  cancel.set_arrival_us(id.arrival_us);
  cancel.set_number(id.number);
}

std::vector<Outgoing> Dispatcher::CancelAll() {
  for (auto& [id, open] : open_) {
    TellHome(id, open);
    LeaveHome(open);
  }
  open_.clear();
  outputs_.clear();
  return TakeOutgoing();
}

Dispatcher::OpenRequests::iterator Dispatcher::Fail(OpenRequests::iterator it) {
  Open& open = it->second;
  uint64_t reachable = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (IsAlive(InstanceId(i))) reachable = std::max(reachable, router_.Reachable(InstanceId(i)));
  }
  TellHome(it->first, open);
  outputs_.push_back({.id = it->first,
                      .finished = true,
                      .finish_reason = "error",
                      .error = absl::UnavailableError(absl::StrCat(
                          "the prompt of ", open.request.prompt.size(), " tokens and max_tokens of ",
                          open.request.sampling.max_tokens, " make ", open.tokens_max(),
                          " tokens; the workers that are left hold ", reachable,
                          " tokens for one request, and none came back within ",
                          absl::FormatDuration(options_.recovery_wait), " (--recovery-wait)"))});
  LeaveHome(open);
  return open_.erase(it);
}

}  // namespace lombard
