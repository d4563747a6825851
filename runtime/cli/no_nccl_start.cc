#include "runtime/cli/nccl_start.h"

namespace lombard {

NcclStart StartNccl(int) { return {{}, "loans between GPUs go over the transport: built without NCCL"}; }

}  // namespace lombard
