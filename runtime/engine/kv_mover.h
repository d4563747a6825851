// What the engine needs of the bytes of KV, whoever holds them: a storage and a transport, or a simulation.
//
// Step thread only. Transfer numbers are the engine's; each names one transfer until ForgetTransfer.
#pragma once

#include "distattn/kv_transfer.h"

namespace lombard {

class KvMover {
 public:
  virtual ~KvMover() = default;

  // Starts to send all layers; the blocks may be written again when this returns. A failure shows in the
  // transfer.
  virtual void Send(const KvSend& send) = 0;
  // Starts to fetch all layers. Nobody else touches the blocks until the transfer is done or forgotten.
  virtual void Fetch(const KvFetch& fetch) = 0;
  // Of an unknown number: nothing sent, done.
  virtual KvTransfer transfer(uint64_t id) = 0;
  virtual void ForgetTransfer(uint64_t id) = 0;  // nothing is written on its behalf any more

  virtual void Copy(BlockId from, BlockId to) = 0;  // all layers, within this worker
  // Whoever reads the block before it is written again notices (tests).
  virtual void Poison(BlockId id) = 0;
};

}  // namespace lombard
