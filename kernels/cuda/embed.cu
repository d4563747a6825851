#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/launch.cuh"

namespace lombard {
namespace {

constexpr int kThreads = 256;  // a guess, until measured

// One block a row.
template <int kCount, class In, class Out>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(const In* table, const int32_t* ids, Out* y, int64_t dim) {
  const In* const from = table + ids[blockIdx.x] * dim;
  Out* const to = y + blockIdx.x * dim;
  for (int64_t i = int64_t{threadIdx.x} * kCount; i < dim; i += int64_t{kThreads} * kCount) {
    float v[kCount];
    LoadFloats(from + i, v);
    StoreFloats(to + i, v);
  }
}

}  // namespace

GpuError GpuEmbed(GpuStreamRef stream, const GpuEmbedArgs& args) {
  const bool packs = internal::PacksOf8(args.table, args.dim) && internal::PacksOf8(args.y, args.dim);
  // The pairs of ForTypes, seen from the result.
  return internal::ForTypes(
      args.y_dtype, args.table_dtype, [&]<class Out, class In>(internal::Type<Out>, internal::Type<In>) {
        const In* const table = static_cast<const In*>(args.table);
        Out* const y = static_cast<Out*>(args.y);
        const LaunchShape shape{.grid = static_cast<unsigned>(args.rows), .block = kThreads};
        return packs ? LOMBARD_LAUNCH((EmbedKernel<8, In, Out>), stream, shape, table, args.ids, y, args.dim)
                     : LOMBARD_LAUNCH((EmbedKernel<1, In, Out>), stream, shape, table, args.ids, y, args.dim);
      });
}

}  // namespace lombard
