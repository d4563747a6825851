// Our matrix products beside oneDNN's, in turns on the same threads. oneDNN gets fp32 weights, as stored ([N,
// K]) and in the layout it likes best (packed before the clock starts), and bf16 where it can on this CPU;
// ours get all three types, in place. Activations are fp32, as in the model: to multiply in bf16, either rounds
// them within its time.
//
//   matmul_vs_onednn [--rounds 5] [--threads 2] [--isa avx2]
//
// One thread is timed by the processor's time that it took, so that who else runs matters less.
#include <omp.h>

#include <cstdlib>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "bench/bench_support.h"
#include "kernels/matmul.h"

namespace lombard::bench {
namespace {

constexpr size_t kWeightBytes = size_t{256}
                                << 20;  // cycled through per case, so that weights come from memory

struct Shape {
  int64_t rows, n, k;
};

// Uniform weights whose bytes are a valid number of every type.
void FillWeights(void* data, size_t bytes) {
  uint16_t* out = static_cast<uint16_t*>(data);
  uint32_t state = 1;
  for (size_t i = 0; i < bytes / 2; ++i) {
    state = state * 1664525 + 1013904223;
    out[i] = static_cast<uint16_t>(((state >> 16) & 0x807f) | 0x3c00);
  }
}

int Repeats(const Shape& shape, int weights) {
  const double operations = 2.0 * shape.rows * shape.n * shape.k;
  return std::max(1, static_cast<int>(std::min<double>(weights, 2e10 / operations)));
}

Case OurCase(const CpuContext& context, const char* region, DType dtype, Shape shape) {
  const size_t size = shape.n * shape.k * DTypeBytes(dtype);
  const int weights = static_cast<int>(kWeightBytes / size), repeats = Repeats(shape, weights);
  auto x = std::make_shared<std::vector<float>>(shape.rows * shape.k, 0.5f);
  auto y = std::make_shared<std::vector<float>>(shape.rows * shape.n);
  return {"lombard " + std::string(DTypeName(dtype)), 2.0 * shape.rows * shape.n * shape.k * repeats, [=] {
            for (int i = 0; i < repeats; ++i) {
              MatmulArgs args;
              args.x = x->data(), args.x_stride = shape.k, args.w = region + i * size, args.w_dtype = dtype;
              args.y = y->data(), args.y_stride = shape.n, args.rows = shape.rows, args.n = shape.n,
              args.k = shape.k;
              Matmul(context, args);
            }
          }};
}

// Empty `run` where oneDNN has no such product on this CPU.
Case OneDnnCase(const dnnl::engine& engine, dnnl::stream& stream, bool bf16, bool packed, Shape shape) {
  using Memory = dnnl::memory;
  const auto type = bf16 ? Memory::data_type::bf16 : Memory::data_type::f32;
  const std::string name =
      std::string("oneDNN ") + (bf16 ? "bf16" : "fp32") + (packed ? " packed" : " plain");
  try {
    const Memory::desc x({shape.rows, shape.k}, type, Memory::format_tag::ab);
    const Memory::desc plain({shape.k, shape.n}, type, Memory::format_tag::ba);
    const Memory::desc w({shape.k, shape.n}, type, packed ? Memory::format_tag::any : Memory::format_tag::ba);
    const Memory::desc y({shape.rows, shape.n}, Memory::data_type::f32, Memory::format_tag::ab);
    const dnnl::matmul::primitive_desc description({x, w, y}, engine);
    const dnnl::matmul primitive(description);
    const size_t size = shape.n * shape.k * (bf16 ? 2 : 4);
    const int repeats = Repeats(shape, static_cast<int>(kWeightBytes / size));
    std::vector<char> source(size);
    FillWeights(source.data(), size);
    Memory plain_memory(plain, engine, source.data());
    auto weights = std::make_shared<std::vector<Memory>>();
    for (int i = 0; i < repeats; ++i) {
      weights->emplace_back(description.weights_desc(), engine);
      dnnl::reorder(plain_memory, weights->back()).execute(stream, plain_memory, weights->back());
      stream.wait();
    }
    Memory x_memory(x, engine), y_memory(y, engine);
    FillWeights(x_memory.get_data_handle(), x.get_size());
    Memory given({{shape.rows, shape.k}, Memory::data_type::f32, Memory::format_tag::ab}, engine);
    FillWeights(given.get_data_handle(), given.get_desc().get_size());
    const dnnl::reorder rounding(given, x_memory);
    return {name + ", " + description.impl_info_str(), 2.0 * shape.rows * shape.n * shape.k * repeats,
            [=, &stream] {
              for (int i = 0; i < repeats; ++i) {
                if (bf16) {
                  Memory from = given, to = x_memory;
                  rounding.execute(stream, from, to);
                }
                primitive.execute(
                    stream,
                    {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, (*weights)[i]}, {DNNL_ARG_DST, y_memory}});
              }
              dnnl::stream(stream).wait();
            }};
  } catch (const dnnl::error& error) {
    return {name + ": " + error.what(), 0, nullptr};
  }
}

int Run(int rounds, int threads, const std::string& isa_name) {
  omp_set_num_threads(threads);
  if (const std::vector<int> processors = Processors(); processors.size() >= static_cast<size_t>(threads)) {
#pragma omp parallel num_threads(threads)
    if (omp_get_thread_num() > 0) StayOn({processors[static_cast<size_t>(omp_get_thread_num())]});
  }
  const std::unique_ptr<ThreadPool> pinned = MakePinnedPool(threads);
  ThreadPool& pool = *pinned;
  CpuContext context{DetectIsa(), &pool};
  if (!isa_name.empty()) {
    const auto isa = ParseIsa(isa_name);
    if (!isa.ok()) {
      std::fprintf(stderr, "%s\n", std::string(isa.status().message()).c_str());
      return 2;
    }
    context.isa = *isa;
  }
  char* region = MapBytes(kWeightBytes);
  FillWeights(region, kWeightBytes);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  PrintMachine(pool);
  std::printf("# isa %s, oneDNN %d.%d.%d, %d rounds, medians\n", std::string(IsaName(context.isa)).c_str(),
              dnnl_version()->major, dnnl_version()->minor, dnnl_version()->patch, rounds);
  for (const Shape shape : {Shape{1, 2048, 2048},
                            {8, 2048, 2048},
                            {64, 2048, 2048},
                            {64, 8192, 2048},
                            {64, 2048, 8192},
                            {512, 2048, 2048},
                            {512, 8192, 2048},
                            {512, 2048, 8192}}) {
    std::vector<Case> cases;
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
      cases.push_back(OurCase(context, region, dtype, shape));
    for (const bool bf16 : {false, true}) {
      for (const bool packed : {false, true}) {
        Case one = OneDnnCase(engine, stream, bf16, packed, shape);
        if (one.run) {
          cases.push_back(std::move(one));
        } else if (shape.rows == 1) {
          std::printf("# %s\n", one.name.c_str());
        }
      }
    }
    RunInterleaved(cases, rounds, threads == 1 ? Clock::kCpu : Clock::kWall);
    double best = 0;
    for (const Case& one : cases) {
      if (one.name[0] == 'o') best = std::max(best, Median(one.rates));
    }
    std::printf("M=%ld N=%ld K=%ld\n", long{shape.rows}, long{shape.n}, long{shape.k});
    for (const Case& one : cases) {
      const double rate = Median(one.rates);
      std::printf("  %-36s %8.1f GFLOP/s  %5.2f of the best oneDNN\n", one.name.c_str(), rate / 1e9,
                  rate / best);
    }
  }
  return 0;
}

}  // namespace
}  // namespace lombard::bench

int main(int argc, char** argv) {
  int rounds = 5, threads = 2;
  std::string isa;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--rounds") rounds = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--threads") threads = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--isa") isa = argv[i + 1];
  }
  return lombard::bench::Run(rounds, threads, isa);
}
