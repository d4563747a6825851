// The emulation finds the mistakes that it is for: each is planted in a small kernel, whose sound form passes
// in every order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/device/gpu_graph.h"
#include "base/device/gpu_memory.h"
#include "base/device/gpu_status.h"
#include "base/device/gpu_stream.h"
#include "base/status.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "tests/emulation/emulated_device.h"

namespace lombard {
namespace {

using testing::HasSubstr;

constexpr int kSeeds = 20, kThreads = 96;

// The numbers that a kernel writes for its block of kThreads, or its error.
template <class Kernel, class... A>
absl::StatusOr<std::vector<int>> RunOnce(uint64_t seed, Kernel kernel, A... args) {
  const emulation::ScopedSeed scope(seed);
  auto stream = GpuStream::Create(0);
  auto out = DeviceMemory::Create(0, kThreads * sizeof(int));
  auto pinned = PinnedMemory::Create(0, kThreads * sizeof(int));
  RETURN_IF_ERROR(ToStatus(LOMBARD_LAUNCH(kernel, stream->ref(), {.block = kThreads, .shared_bytes = 4096},
                                          out->data<int>(), args...)));
  RETURN_IF_ERROR(stream->Copy(pinned->data(), out->data(), out->bytes()));
  RETURN_IF_ERROR(stream->Synchronize());
  return std::vector<int>(pinned->data<int>(), pinned->data<int>() + kThreads);
}

// How many seeds give something else than `expected`.
template <class Kernel, class... A>
int Wrong(const std::vector<int>& expected, Kernel kernel, A... args) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto got = RunOnce(seed, kernel, args...);
    wrong += !got.ok() || *got != expected;
  }
  return wrong;
}

std::vector<int> Each(int (*f)(int)) {
  std::vector<int> values(kThreads);
  for (int i = 0; i < kThreads; ++i) values[i] = f(i);
  return values;
}

// Each thread reads what its neighbour to the right has written.
__global__ void Neighbour(int* out, bool barrier) {
  LOMBARD_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = tile[(threadIdx.x + 1) % kThreads];
}

TEST(EmulationTest, AMissingBarrierShows) {
  const std::vector<int> expected = Each([](int i) { return (i + 1) % kThreads; });
  EXPECT_EQ(Wrong(expected, Neighbour, true), 0);
  EXPECT_EQ(Wrong(expected, Neighbour, false), kSeeds);
}

// Two rounds through one tile: the second may not overwrite what others still read.
__global__ void TwoRounds(int* out, bool barrier) {
  LOMBARD_DYNAMIC_SHARED(int, tile);
  int sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = static_cast<int>(threadIdx.x) + 1000 * round;
    __syncthreads();
    sum += tile[(threadIdx.x + 1) % kThreads];
    if (barrier) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

TEST(EmulationTest, AMissingBarrierBeforeReuseShows) {
  const std::vector<int> expected = Each([](int i) { return 2 * ((i + 1) % kThreads) + 1000; });
  EXPECT_EQ(Wrong(expected, TwoRounds, true), 0);
  EXPECT_EQ(Wrong(expected, TwoRounds, false), kSeeds);
}

__global__ void WithinWarp(int* out, bool barrier) {
  LOMBARD_SHARED(int, tile, kThreads);
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

TEST(EmulationTest, AMissingWarpBarrierShows) {
  const std::vector<int> expected = Each([](int i) { return i ^ 1; });
  EXPECT_EQ(Wrong(expected, WithinWarp, true), 0);
  EXPECT_EQ(Wrong(expected, WithinWarp, false), kSeeds);
}

__global__ void AsyncRead(int* out, const int* in, bool wait) {
  LOMBARD_SHARED(int, tile, kThreads);
  if (threadIdx.x < kThreads / 4) ptx::CpAsync16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
  ptx::CpAsyncCommit();
  if (wait) ptx::CpAsyncWait<0>();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

TEST(EmulationTest, AMissingWaitForAsynchronousCopiesShows) {
  const auto in = DeviceMemory::Create(0, kThreads * sizeof(int));
  for (int i = 0; i < kThreads; ++i) in->data<int>()[i] = 3 * i;  // device memory is plain memory here
  const std::vector<int> expected = Each([](int i) { return 3 * i; });
  EXPECT_EQ(Wrong(expected, AsyncRead, in->data<const int>(), true), 0);
  EXPECT_EQ(Wrong(expected, AsyncRead, in->data<const int>(), false), kSeeds);
}

// Blocks come in any order: who is last depends on the seed, and adds up right whoever it is.
__global__ void LastBlock(int* counter, int* last) {
  if (atomicAdd(counter, 1) == static_cast<int>(gridDim.x) - 1) *last = static_cast<int>(blockIdx.x);
}

TEST(EmulationTest, BlocksRunInAnyOrder) {
  std::set<int> lasts;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const emulation::ScopedSeed scope(seed);
    auto stream = GpuStream::Create(0);
    auto numbers = DeviceMemory::Create(0, 2 * sizeof(int));
    ASSERT_TRUE(stream->Fill(numbers->data(), 0, numbers->bytes()).ok());
    ASSERT_TRUE(
        LOMBARD_LAUNCH(LastBlock, stream->ref(), {.grid = 5}, numbers->data<int>(), numbers->data<int>() + 1)
            .ok());
    ASSERT_TRUE(stream->Synchronize().ok());
    EXPECT_EQ(numbers->data<int>()[0], 5);
    lasts.insert(numbers->data<int>()[1]);
  }
  EXPECT_GE(lasts.size(), 3u);
}

__global__ void BarrierForSome(int* out) {
  if (threadIdx.x >= 32) __syncthreads();
  __syncthreads();
  out[threadIdx.x] = 0;
}

TEST(EmulationTest, ABarrierThatSomeDoNotReachIsADeadlock) {
  const auto got = RunOnce(1, BarrierForSome);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(
      std::string(got.status().message()),
      HasSubstr("deadlock in kernel, block (0, 0, 0): 32 threads from (0, 0, 0) wait in __syncthreads at "
                "emulation_test.cc:"));
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("64 threads from (32, 0, 0)"));
}

__global__ void ShuffleForSome(int* out) {
  int value = 0;
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(kFullWarp, 1, 1);
  out[threadIdx.x] = value;
}

TEST(EmulationTest, AShuffleThatLanesOfItsMaskMissIsADeadlock) {
  const auto got = RunOnce(1, ShuffleForSome);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("wait in __shfl_xor_sync at"));
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("for lanes ffffffff; 48 have ended"));
}

__global__ void ShuffleFromOutside(int* out) {
  out[threadIdx.x] = 7;
  if (threadIdx.x % 32 < 4) out[threadIdx.x] = __shfl_sync(0xf, static_cast<int>(threadIdx.x), 9);
}

TEST(EmulationTest, ALaneOutsideTheMaskGivesRubbish) {
  EXPECT_EQ(Wrong(Each([](int i) { return i % 32 < 4 ? -1 : 7; }), ShuffleFromOutside), 0);
}

__global__ void Unwritten(int* out) {
  LOMBARD_SHARED(float, tile, kThreads);
  if (threadIdx.x == 0) tile[0] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x] != tile[threadIdx.x];
}

TEST(EmulationTest, SharedMemoryBeginsAsNaN) {
  EXPECT_EQ(Wrong(Each([](int i) { return i > 0 ? 1 : 0; }), Unwritten), 0);
}

__global__ void BehindShared(int* out) {
  LOMBARD_SHARED(char, tile, 4);
  if (threadIdx.x == 0) tile[out == nullptr ? 0 : 4] = 1;
}

TEST(EmulationTest, AWriteBehindSharedMemoryIsReported) {
  const auto got = RunOnce(1, BehindShared);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("wrote behind shared memory"));
}

__global__ void Misaligned(int* out) {
  out[threadIdx.x] = 0;
  if (threadIdx.x == 5) StorePack(out + 5, Pack<int>{});
}

TEST(EmulationTest, AMisalignedPackIsReportedWithItsThread) {
  const auto got = RunOnce(1, Misaligned);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("thread (5, 0, 0)"));
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("misaligned address"));
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("seed 1"));
}

// In and out of a thread's own memory, where shared memory should be.
__global__ void CopiesElsewhere(int* out) {
  alignas(16) int own[4] = {};
  if (threadIdx.x == 3) ptx::CpAsync16(own, out);
}
__global__ void ReadsElsewhere(int* out) {
  alignas(16) uint16_t own[8] = {};
  uint32_t r[4];
  ptx::LdMatrixX4(r, own);
  out[threadIdx.x] = static_cast<int>(r[0]);
}

TEST(EmulationTest, InstructionsForSharedMemoryReportOtherMemory) {
  for (const auto& got : {RunOnce(1, CopiesElsewhere), RunOnce(1, ReadsElsewhere)}) {
    ASSERT_FALSE(got.ok());
    EXPECT_THAT(std::string(got.status().message()), HasSubstr("shared memory"));
  }
}

__global__ void Store(int* out, int value) { *out = value; }

TEST(EmulationTest, StreamsRunLateEnoughThatAMissingWaitShows) {
  int early = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const emulation::ScopedSeed scope(seed);
    auto a = GpuStream::Create(0), b = GpuStream::Create(0);
    auto event = GpuEvent::Create(0);
    auto number = DeviceMemory::Create(0, sizeof(int));
    auto pinned = PinnedMemory::Create(0, 2 * sizeof(int));
    int* const seen = pinned->data<int>();
    ASSERT_TRUE(LOMBARD_LAUNCH(Store, a->ref(), {}, number->data<int>(), 5).ok());
    ASSERT_TRUE(a->Record(*event).ok());
    ASSERT_TRUE(b->Copy(&seen[0], number->data(), sizeof(int)).ok());
    ASSERT_TRUE(b->Wait(*event).ok());
    ASSERT_TRUE(b->Copy(&seen[1], number->data(), sizeof(int)).ok());
    ASSERT_TRUE(b->Synchronize().ok());
    early += seen[0] != 5;
    EXPECT_EQ(seen[1], 5);
    EXPECT_TRUE(*event->IsDone());
  }
  EXPECT_GT(early, 0);
}

__global__ void Add(int* out, const int* in, int more) { *out += *in + more; }

TEST(EmulationTest, AGraphRunsWhatWasRecordedWithTheArgumentsOfThatTime) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const emulation::ScopedSeed scope(seed);
    auto stream = GpuStream::Create(0);
    auto event = GpuEvent::Create(0);
    auto numbers = DeviceMemory::Create(0, 2 * sizeof(int));
    auto pinned = PinnedMemory::Create(0, 2 * sizeof(int));
    int *const in = pinned->data<int>(), *const sum = in + 1, more = 100;
    ASSERT_TRUE(stream->Fill(numbers->data(), 0, numbers->bytes()).ok());
    auto graph = GpuGraph::Capture(*stream, [&] {
      RETURN_IF_ERROR(ToStatus(
          LOMBARD_LAUNCH(Add, stream->ref(), {}, numbers->data<int>(), numbers->data<int>() + 1, more)));
      return stream->Record(*event);
    });
    ASSERT_TRUE(graph.ok()) << graph.status();
    more = 7;  // too late
    for (int i = 1; i <= 3; ++i) {
      *in = i;
      ASSERT_TRUE(stream->Copy(numbers->data<int>() + 1, in, sizeof(int)).ok());
      ASSERT_TRUE(graph->Launch(*stream).ok());
      ASSERT_TRUE(event->Synchronize().ok());
      ASSERT_TRUE(stream->Copy(sum, numbers->data(), sizeof(int)).ok());
      ASSERT_TRUE(stream->Synchronize().ok());
      EXPECT_EQ(*sum, i * 100 + i * (i + 1) / 2);
    }
  }
}

TEST(EmulationTest, AGraphThatIsMadeHasItsMemory) {
  auto stream = GpuStream::Create(0);
  auto event = GpuEvent::Create(0);
  const auto record = [&] { return stream->Record(*event); };
  const uint64_t before = QueryGpuMemory(0)->free_bytes;
  auto graph = GpuGraph::Capture(*stream, record);
  ASSERT_TRUE(graph.ok()) << graph.status();
  emulation::SetMemoryBytes(1);
  EXPECT_TRUE(graph->Launch(*stream).ok());
  EXPECT_EQ(GpuGraph::Capture(*stream, record).status().code(), absl::StatusCode::kResourceExhausted);
  emulation::SetMemoryBytes(uint64_t{1} << 30);
  EXPECT_LT(QueryGpuMemory(0)->free_bytes, before);
  graph = absl::CancelledError();
  EXPECT_EQ(QueryGpuMemory(0)->free_bytes, before) << "that of the failed one too";
}

TEST(EmulationTest, WhileAStreamIsRecordedNothingWaitsOrAllocates) {
  auto stream = GpuStream::Create(0);
  auto event = GpuEvent::Create(0);
  const auto text = [&](absl::FunctionRef<absl::Status()> enqueue) {
    return std::string(GpuGraph::Capture(*stream, enqueue).status().message());
  };
  EXPECT_THAT(text([&] { return stream->Synchronize(); }),
              HasSubstr("cudaStreamSynchronize, GPU 0: operation not"));
  EXPECT_THAT(text([&] { return DeviceMemory::Create(0, 1).status(); }), HasSubstr("cudaMalloc"));
  EXPECT_THAT(text([&] { return stream->Wait(*event); }), HasSubstr("not recorded"));
  EXPECT_TRUE(stream->Synchronize().ok());
  EXPECT_TRUE(DeviceMemory::Create(0, 1).ok());
}

TEST(EmulationTest, OrdinaryHostMemoryIsNotCopied) {
  auto stream = GpuStream::Create(0);
  auto memory = DeviceMemory::Create(0, 16);
  int host[4] = {};
  const absl::Status status = stream->Copy(memory->data(), host, sizeof host);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cudaMemcpyAsync, 16 B, GPU 0: not device memory"));
  EXPECT_FALSE(stream->Copy(memory->data(), memory->data<char>() + 8, 16).ok());  // over the end
}

TEST(EmulationTest, MemoryEndsAndComesBack) {
  emulation::SetMemoryBytes(1 << 20);
  auto most = DeviceMemory::Create(0, 1000 << 10);
  ASSERT_TRUE(most.ok());
  const auto more = DeviceMemory::Create(0, 100 << 10);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(more.status().message()),
      HasSubstr("cudaMalloc, 100 KiB (102400 B) on GPU 0, 24 KiB free: out of memory (CUDA error 2)"));
  EXPECT_EQ(QueryGpuMemory(0)->free_bytes, 24u << 10);
  most->Reset();
  EXPECT_EQ(QueryGpuMemory(0)->free_bytes, 1u << 20);
  EXPECT_TRUE(DeviceMemory::Create(0, 100 << 10).ok());
  emulation::SetMemoryBytes(uint64_t{1} << 30);
}

TEST(EmulationTest, ABadLaunchNamesItsShape) {
  auto stream = GpuStream::Create(0);
  const absl::Status status =
      ToStatus(LOMBARD_LAUNCH(Store, stream->ref(), {.grid = 3, .block = 2000}, nullptr, 1));
  EXPECT_EQ(status.message(),
            "launch of Store, grid 3 x 1 x 1, block 2000 x 1 x 1, 0 B shared: invalid configuration argument "
            "(CUDA error 9)");
}

}  // namespace
}  // namespace lombard
