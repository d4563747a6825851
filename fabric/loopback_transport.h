// Workers of one process: messages are moved from queue to queue, never copied.
//
//   auto transports = MakeLoopbackTransports(4);        // one per worker; each polled by its own thread
//
// A transport that is destroyed without Close counts as lost: the others get OnPeerDown with kUnavailable.
// The last one alive frees what they share. framing_bytes are the header bytes alone, as there are no chunks.
#pragma once

#include <memory>
#include <vector>

#include "fabric/transport.h"

namespace lombard {

// REQUIRES: size >= 1. Entry i has rank i.
std::vector<std::unique_ptr<Transport>> MakeLoopbackTransports(int size);

}  // namespace lombard
