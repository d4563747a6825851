#include "kernels/cuda/partial_attention.h"

#include "base/check.h"
#include "kernels/cuda/attention_launches.h"

namespace lombard {

GpuError GpuPartialAttention(GpuStreamRef stream, const GpuAttentionArgs& args) {
  const KvLayout& layout = args.layout;
  CHECK(layout.kv_heads > 0 && args.q_heads % layout.kv_heads == 0)
      << args.q_heads << " / " << layout.kv_heads;
  CHECK(layout.head_dim > 0 && layout.head_dim % 8 == 0 && layout.head_dim <= kAttentionHeadDimMax)
      << "head_dim " << layout.head_dim;
  CHECK(layout.block_tokens > 0) << layout.block_tokens;
  CHECK(args.q_stride % 8 == 0) << args.q_stride;
  for (const AttentionKernel list :
       {AttentionKernel::kPlain, AttentionKernel::kDecode, AttentionKernel::kTiles}) {
    if (const GpuError error = internal::PlainAttention(stream, args, list); !error.ok()) return error;
  }
  return {};
}

}  // namespace lombard
