#include "runtime/sim/network.h"

#include <algorithm>

namespace lombard::sim {

Network::Network(const Options& options, EventQueue* events, SimRandom* random, Handlers handlers)
    : options_(options),
      events_(events),
      random_(random),
      handlers_(std::move(handlers)),
      links_(static_cast<size_t>(options.size * options.size)) {
  for (Link& link : links_) link.delay_max = options.delay_max;
}

void Network::Send(int from, int to, Payload payload) {
  Link& link = At(from, to);
  const auto delay = [&] {
    const absl::Duration d = random_->Between(options_.delay_min, link.delay_max);
    return random_->Chance(options_.slow) ? 10 * d : d;
  };
  link.last_arrival = std::max(link.last_arrival, events_->now() + delay());
  if (options_.duplicate > 0 && random_->Chance(options_.duplicate)) {
    const absl::Duration later =
        random_->Chance(0.3) ? random_->Between(delay(), options_.copy_max) : delay();
    events_->At(link.last_arrival + later, [this, from, to, connection = link.connection, copy = payload] {
      const Link& l = At(from, to);
      if (l.connection == connection && !l.cut) handlers_.deliver(from, to, copy);
    });
  }
  link.under_way.push_back({link.last_arrival, std::move(payload)});
  events_->At(link.last_arrival, [this, from, to] { Pump(from, to); });
}

void Network::Pump(int from, int to) {
  Link& link = At(from, to);
  while (!link.cut && !link.under_way.empty() && link.under_way.front().arrival <= events_->now()) {
    const Payload payload = std::move(link.under_way.front().payload);
    link.under_way.pop_front();
    handlers_.deliver(from, to, payload);
  }
}

void Network::Heal(int from, int to) {
  At(from, to).cut = false;
  events_->After(options_.delay_min, [this, from, to] { Pump(from, to); });
}

void Network::HealAll() {
  for (int from = 0; from < options_.size; ++from) {
    for (int to = 0; to < options_.size; ++to) {
      At(from, to).delay_max = options_.delay_max;
      if (At(from, to).cut) Heal(from, to);
    }
  }
}

void Network::Drop(int from, int to) {
  ++At(from, to).connection;
  At(from, to).under_way.clear();
}

void Network::TellDown(int at, int peer) {
  events_->After(random_->Between(options_.delay_min, options_.delay_max),
                 [this, at, peer] { handlers_.down(at, peer); });
}

void Network::Break(int a, int b) {
  Drop(a, b), Drop(b, a);
  TellDown(a, b), TellDown(b, a);
}

void Network::End(int rank) {
  for (int peer = 0; peer < options_.size; ++peer) {
    if (peer == rank) continue;
    Drop(peer, rank);
    Link& link = At(rank, peer);
    if (random_->Chance(0.5)) Drop(rank, peer);
    if (link.cut) continue;  // the news cannot get through either
    const absl::Time after = std::max(events_->now(), link.last_arrival);
    events_->At(after + options_.delay_min, [this, rank, peer] { handlers_.down(peer, rank); });
  }
}

}  // namespace lombard::sim
