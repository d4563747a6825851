// An NCCL between the emulated device's streams, in this process: what it takes to see whether the order in
// which ranks submit transfers can make them wait for each other. Stricter than the real one: of what was
// submitted on a device one transfer runs at a time, in the order of submission, and occupies the device
// until its other end has come to it too. A device (MakeGpuCurrent) stands for a rank's GPU, and must be the
// calling thread's current one. An abort returns when nothing of any communicator is left on the device (NCCL
// issues 549, 564, 829).
#pragma once

#include "fabric/nccl/nccl_library.h"

namespace lombard {

NcclLibrary FakeNccl();

// While it lives, two ranks connect as the real ones do: a communicator's first transfer in each direction is
// accepted only when the other end has submitted its own.
class FakeNcclConnects {
 public:
  FakeNcclConnects();
  ~FakeNcclConnects();
  FakeNcclConnects(const FakeNcclConnects&) = delete;
  FakeNcclConnects& operator=(const FakeNcclConnects&) = delete;
};

// While it lives, aborts are without effect and do not return.
class FakeNcclHangs {
 public:
  FakeNcclHangs();
  ~FakeNcclHangs();
  FakeNcclHangs(const FakeNcclHangs&) = delete;
  FakeNcclHangs& operator=(const FakeNcclHangs&) = delete;
};

// The process that computes on `device` ends. noticed: its peers' NCCL knows, as over a network; otherwise it
// does not, as between GPUs that see each other's memory.
void KillFakeNcclRank(int device, bool noticed);

}  // namespace lombard
