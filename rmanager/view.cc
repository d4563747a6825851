// The part of RManager that follows gManager's view: who belongs, what they have, who has the claim.
#include <algorithm>

#include "rmanager/rmanager.h"
#include "rmanager/wire.h"

namespace lombard {
namespace {

constexpr uint64_t kIncarnationsMax = uint64_t{1} << 31;  // they are the upper half of epochs

}  // namespace

void RManager::OnView(const messages::ClusterView& view, absl::Time now) {
  // The same view again still counts: it undoes what replies of the moment have told since (UpdateLendable).
  if (view.epoch() < facts_.epoch) return;
  facts_.epoch = view.epoch();
  FollowMembers(view, now);
  if (fenced_) return;
  for (const messages::InstanceFacts& instance : view.instances()) {
    if (instance.instance() >= facts_.instances.size()) {
      ++malformed_;
      continue;
    }
    const messages::BlockCounts& blocks = instance.blocks();
    facts_.instances[instance.instance()] = {
        .known = true,
        .blocks_total = blocks.total(),
        .blocks_free = blocks.free(),
        .blocks_lent = blocks.lent(),
        .blocks_borrowed = blocks.borrowed(),
        .lendable = std::min(blocks.lendable(), blocks.total()),
        .lendable_older = std::min(blocks.lendable_older(), blocks.total()),
        .lendable_max = std::min(blocks.lendable_max(), blocks.total()),
        .guarded_for = {},
        .batch = instance.batch(),
        .waiting = instance.waiting()};
    ClusterFacts::Instance& facts = facts_.instances[instance.instance()];
    if (blocks.has_guarded_for()) facts.guarded_for = FromWire(blocks.guarded_for());
    if (Unreachable(static_cast<int>(instance.instance()), now)) facts.lendable = facts.lendable_older = 0;
  }
  facts_.claim.reset();
  if (view.has_claim()) {
    facts_.claim = {FromWire(view.claim().request()), InstanceId{view.claim().home()}, view.claim().blocks(),
                    view.claim().spare()};
  }
  facts_.oldest.reset();
  if (view.has_oldest()) facts_.oldest = FromWire(view.oldest());
}

void RManager::FollowMembers(const messages::ClusterView& view, absl::Time now) {
  if (view.members_number() <= members_number_) return;
  members_number_ = view.members_number();
  for (const messages::Member& member : view.members()) {
    if (member.instance() >= facts_.instances.size() || member.incarnation() == 0) {
      ++malformed_;
      continue;
    }
    const int peer = static_cast<int>(member.instance());
    const bool lost = member.state() == messages::MEMBER_LOST || member.state() == messages::MEMBER_LEFT;
    member_blocks_[peer] = member.kv_blocks();
    if (InstanceId{member.instance()} == options_.self) {
      const uint64_t own = Value(incarnation_);
      if (member.process() != 0 && member.process() != options_.process && member.incarnation() >= own) {
        messages::Fenced fenced;
        fenced.set_incarnation(member.incarnation());
        fenced.set_taken(true);
        OnFenced(fenced);
      } else if (member.incarnation() > own || (lost && member.incarnation() == own)) {
        messages::Fenced fenced;
        fenced.set_incarnation(member.incarnation());
        OnFenced(fenced);
      }
      continue;
    }
    // All before the named one are lost, and it too if the list says so.
    const uint64_t newest_lost = member.incarnation() - (lost ? 0 : 1);
    if (newest_lost <= lost_[peer]) continue;
    lost_[peer] = newest_lost;
    if (incarnations_[peer] <= newest_lost) PeerLost(peer, now);
  }
}

void RManager::OnFenced(const messages::Fenced& fenced) {
  if (fenced_ || (fenced.incarnation() < Value(incarnation_) && !fenced.taken())) return;
  if (fenced.process() != 0 && fenced.process() != options_.process) return;
  if (options_.bug == PlantedBug::kIgnoreFence) return;
  if (fenced.incarnation() >= kIncarnationsMax) {
    ++malformed_;
    return;
  }
  fenced_ = true;
  const uint64_t next = std::max(fenced.incarnation(), Value(incarnation_)) + 1;
  events_.push_back(FencedOut{Incarnation{next}, fenced.taken()});
}

}  // namespace lombard
