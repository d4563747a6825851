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
  CHECK(args.scale > 0) << args.scale;
  for (const void* pointer : {args.q, args.k, args.v, static_cast<const void*>(args.acc)})
    CHECK_EQ(reinterpret_cast<uintptr_t>(pointer) % 16, 0u);
  const auto run = [&](AttentionKernel kernel, auto launch) {
    return args.tables.work_count[static_cast<int>(kernel)] == 0 ? GpuError() : launch(stream, args);
  };
  GpuError error = run(AttentionKernel::kPlain, internal::PlainAttention);
  if (error.ok()) error = run(AttentionKernel::kTiles, internal::TileAttention);
  if (error.ok()) error = run(AttentionKernel::kDecode, internal::DecodeAttention);
  return error;
}

}  // namespace lombard
