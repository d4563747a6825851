// The attention kernels behind GpuPartialAttention, one source each.
#pragma once

#include "kernels/cuda/partial_attention.h"

namespace lombard::internal {

// Any work; of the given kernel's list.
GpuError PlainAttention(GpuStreamRef stream, const GpuAttentionArgs& args, AttentionKernel list);

}  // namespace lombard::internal
