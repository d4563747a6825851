// The attention kernels behind GpuPartialAttention, one source each.
#pragma once

#include "kernels/cuda/partial_attention.h"

namespace lombard::internal {

// Each runs the pieces of its list.
GpuError PlainAttention(GpuStreamRef stream, const GpuAttentionArgs& args);
// REQUIRES: HasFastAttention(args.layout).
GpuError DecodeAttention(GpuStreamRef stream, const GpuAttentionArgs& args);
GpuError TileAttention(GpuStreamRef stream, const GpuAttentionArgs& args);

}  // namespace lombard::internal
