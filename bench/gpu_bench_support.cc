#include "bench/gpu_bench_support.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>

#include "base/device/gpu_info.h"
#include "base/dtype.h"
#ifdef LOMBARD_HAS_CUBLAS_LT
#include "kernels/cuda/cublas_lt.h"
#endif

namespace lombard::bench {

Device::Device(int device, const Options& options)
    : options_(options),
      device_(device),
      stream_(Take(GpuStream::Create(device))),
      start_(Take(GpuEvent::Create(device, /*timing=*/true))),
      end_(Take(GpuEvent::Create(device, /*timing=*/true))),
      flush_(Allocate(options.smoke ? 1 << 16 : 256 << 20)) {
  std::minstd_rand random(1);
  std::vector<uint16_t> values((options.smoke ? 1 << 16 : 64 << 20) / 2);
  for (uint16_t& value : values) value = BF16FromFloat(static_cast<float>(random() % 2001) / 1000.0f - 1);
  random_ = Upload(values);
}

DeviceMemory Device::UploadBytes(const void* values, uint64_t bytes) {
  DeviceMemory memory = Allocate(bytes);
  const PinnedMemory pinned = Take(PinnedMemory::Create(device_, bytes));
  std::memcpy(pinned.data(), values, bytes);
  CHECK_OK(stream_.Copy(memory.data(), pinned.data(), bytes));
  CHECK_OK(stream_.Synchronize());
  return memory;
}

DeviceMemory Device::Random(uint64_t bytes) {
  DeviceMemory memory = Allocate(bytes);
  FillRandom(memory.data(), bytes);
  return memory;
}

void Device::FillRandom(void* memory, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += random_.bytes())
    CHECK_OK(
        stream_.Copy(static_cast<char*>(memory) + at, random_.data(), std::min(random_.bytes(), bytes - at)));
  CHECK_OK(stream_.Synchronize());
}

std::vector<double> Device::Time(const std::vector<std::function<void()>>& cases) {
  std::vector<std::vector<double>> seconds(cases.size());
  for (int round = -2; round < options_.rounds; ++round) {
    for (size_t i = 0; i < cases.size(); ++i) {
      CHECK_OK(stream_.Fill(flush_.data(), static_cast<uint8_t>(round), flush_.bytes()));
      CHECK_OK(stream_.Record(start_));
      cases[i]();
      CHECK_OK(stream_.Record(end_));
      CHECK_OK(stream_.Synchronize());
      const float ms = Take(ElapsedMs(start_, end_));
      if (round >= 0) seconds[i].push_back(1e-3 * ms);
    }
  }
  std::vector<double> medians;
  for (const auto& one : seconds) medians.push_back(std::max(Median(one), 1e-9));
  return medians;
}

bool Device::Fits(uint64_t bytes) {
  return bytes + (uint64_t{1} << 30) < Take(QueryGpuMemory(device_)).free_bytes || options_.smoke;
}

namespace {

double CopyRate(Device& device, bool smoke) {
  const uint64_t bytes = smoke ? 1 << 16 : uint64_t{2} << 30;
  const DeviceMemory from = device.Random(bytes), to = device.Allocate(bytes);
  return 2.0 * bytes / device.Time([&] { CHECK_OK(device.stream().Copy(to.data(), from.data(), bytes)); });
}

// 0, and why, without cuBLASLt.
double MatrixRate([[maybe_unused]] Device& device) {
#ifdef LOMBARD_HAS_CUBLAS_LT
  const absl::StatusOr<CublasLt> loaded = CublasLt::Load();
  if (!loaded.ok()) {
    std::printf("# no matrix rate: %s\n", loaded.status().ToString().c_str());
    return 0;
  }
  const CublasLt& lt = *loaded;
  const auto check = [&](cublasStatus_t status, const char* call) {
    CHECK(status == CUBLAS_STATUS_SUCCESS) << lt.ToStatus(status, call);
  };
  constexpr uint64_t kSize = 8192, kWorkspace = 32 << 20;
  const DeviceMemory a = device.Random(kSize * kSize * 2), b = device.Random(kSize * kSize * 2),
                     c = device.Allocate(kSize * kSize * 2), workspace = device.Allocate(kWorkspace);
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  check(lt.Create(&handle), "cublasLtCreate");
  check(lt.MatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(lt.MatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "cublasLtMatmulDescSetAttribute");
  check(lt.MatrixLayoutCreate(&layout, CUDA_R_16BF, kSize, kSize, kSize), "cublasLtMatrixLayoutCreate");
  check(lt.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  check(lt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace,
                                        sizeof kWorkspace),
        "cublasLtMatmulPreferenceSetAttribute");
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  check(lt.MatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout, preference, 1, &best,
                                  &found),
        "cublasLtMatmulAlgoGetHeuristic");
  CHECK(found == 1);
  const float one = 1, zero = 0;
  const double seconds = device.Time([&] {
    check(lt.Matmul(handle, product, &one, a.data(), layout, b.data(), layout, &zero, c.data(), layout,
                    c.data(), layout, &best.algo, workspace.data(), kWorkspace,
                    static_cast<cudaStream_t>(device.stream().ref().handle)),
          "cublasLtMatmul");
  });
  check(lt.MatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
  check(lt.MatrixLayoutDestroy(layout), "cublasLtMatrixLayoutDestroy");
  check(lt.MatmulDescDestroy(product), "cublasLtMatmulDescDestroy");
  check(lt.Destroy(handle), "cublasLtDestroy");
  return 2.0 * kSize * kSize * kSize / seconds;
#else
  std::printf("# no matrix rate: built without cuBLASLt's headers\n");
  return 0;
#endif
}

bool Parse(int argc, char** argv, const std::string& name, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--smoke") {
      options->smoke = true;
      options->rounds = 1;
    } else if (flag == "--json" && i + 1 < argc) {
      options->json = argv[++i];
    } else if (flag == "--rounds" && i + 1 < argc) {
      options->rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: %s [--json FILE] [--rounds %d] [--smoke]\n", name.c_str(),
                   options->rounds);
      return false;
    }
  }
  return true;
}

}  // namespace

Rows::Rows(std::string path, nlohmann::json head) : path_(std::move(path)), result_(std::move(head)) {
  result_["rows"] = nlohmann::json::array();
  result_["complete"] = false;
  Write();
}

void Rows::Add(nlohmann::json row) {
  result_["rows"].push_back(std::move(row));
  Write();
}

bool Rows::Finish() {
  result_["complete"] = true;
  Write();
  if (!written_) std::fprintf(stderr, "cannot write %s\n", path_.c_str());
  return written_;
}

void Rows::Write() {
  if (path_.empty()) return;
  const std::string unfinished = path_ + ".part";
  std::ofstream file(unfinished);
  file << result_.dump(2) << "\n";
  file.close();
  written_ = file.good() && std::rename(unfinished.c_str(), path_.c_str()) == 0;
}

int GpuBenchMain(int argc, char** argv, const std::string& name, int rounds,
                 const std::function<void(Device& device, const Options& options, const Ceilings& ceilings,
                                          Rows& rows)>& run) {
  Options options{.json = {}, .rounds = rounds};
  if (!Parse(argc, argv, name, &options)) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const GpuSearch found = FindGpus();
  if (found.gpus.empty()) {
    std::printf("no GPU: %s\n", found.reason.c_str());
    return 77;
  }
  const GpuInfo& gpu = found.gpus[0];
  std::printf("# %s, %d multiprocessors, %.0f MB of second-level cache; medians of %d\n", gpu.name.c_str(),
              gpu.multiprocessors, 1e-6 * gpu.l2_bytes, options.rounds);
  if (options.smoke) std::printf("# --smoke: these figures mean nothing\n");
  Device device(gpu.device, options);
  Ceilings ceilings;
  ceilings.copy_rate = CopyRate(device, options.smoke);
  ceilings.matrix_rate = options.smoke ? 0 : MatrixRate(device);
  std::printf("# ceilings: copy %.0f GB/s (read and written), bf16 products %.0f TFLOP/s\n",
              1e-9 * ceilings.copy_rate, 1e-12 * ceilings.matrix_rate);
  Rows result(options.json, {{"gpu", gpu.name},
                             {"rounds", options.rounds},
                             {"smoke", options.smoke},
                             {"copy_gb_per_s", 1e-9 * ceilings.copy_rate},
                             {"matrix_tflop_per_s", 1e-12 * ceilings.matrix_rate}});
  run(device, options, ceilings, result);
  return result.Finish() ? 0 : 1;
}

}  // namespace lombard::bench
