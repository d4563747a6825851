// What loans between GPUs go over. Built without NCCL's header, that is the transport.
#pragma once

#include <string>

#include "runtime/engine/gpu/gpu_compute.h"

namespace lombard {

struct NcclStart {
  MakeGpuExchangeEnd exchange_end;  // empty: the transport
  std::string text;                 // for people: which, and why
};
// Looks for the library. `device`: this rank's GPU.
NcclStart StartNccl(int device);

}  // namespace lombard
