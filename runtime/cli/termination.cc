#include "runtime/cli/termination.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace lombard {
namespace {

sigset_t TerminationSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Termination::Termination() {
  const sigset_t signals = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // threads made from now on inherit it
  watcher_ = std::thread([this] { Watch(); });
}

Termination::~Termination() {
  stop_.store(true);
  pthread_kill(watcher_.native_handle(), SIGTERM);  // for the watcher alone
  watcher_.join();
}

void Termination::set_handler(std::function<void()> handler) {
  std::lock_guard lock(mutex_);
  handler_ = std::move(handler);
}

void Termination::Watch() {
  const sigset_t signals = TerminationSignals();
  while (true) {
    if (sigwaitinfo(&signals, nullptr) != SIGTERM) continue;
    if (stop_.load()) return;
    std::lock_guard lock(mutex_);
    if (handler_) {
      handler_();
      continue;
    }
    signal(SIGTERM, SIG_DFL);
    kill(getpid(), SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  }
}

}  // namespace lombard
