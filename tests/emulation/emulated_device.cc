// base/device's functions on a device that is this process's memory. Streams keep what is put into them and
// run it at once or as late as allowed, as the seed says, so that a missing Synchronize, Wait or Record
// shows.
#include "tests/emulation/emulated_device.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/device/device_api.h"
#include "tests/emulation/cuda_emulation.h"

namespace lombard::emulation {
namespace {

// cudaError_t; the numbers are part of CUDA's interface.
constexpr int kInvalidValue = 1, kMemoryAllocation = 2, kInvalidConfiguration = 9, kIllegalAddress = 700;
constexpr int kCaptureUnsupported = 900, kCaptureIsolation = 905;
constexpr int kFault = -1;  // ours: found by the emulation

constexpr uint32_t kSharedBytesMax = 163 << 10;  // of sm_80: what every chip that we build for has
constexpr int kDevices = 1;

struct Operation {
  const char* call;
  std::function<int()> run;  // answers cudaError_t; kNotReady: again later
};

struct Event;
// What a stream was given while it was recorded: an operation, or the record of an event.
struct Node {
  Operation operation;
  Event* event = nullptr;
};
struct Graph {
  std::vector<Node> nodes;
  uint64_t bytes = 0;  // of device memory, once it is there
};

struct Stream {
  std::deque<Operation> queue;
  uint64_t put = 0, done = 0;  // operations ever
  int error = 0;               // of an operation that ran; stays
  std::unique_ptr<Graph> capture;
};

struct Event {
  std::shared_ptr<Stream> stream;  // null before the first Record
  uint64_t position = 0;           // passed when stream->done reaches it
};

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
struct Memory {
  uint64_t bytes;
  std::unique_ptr<void, FreeDeleter> owner;
};

// One device and all its state; test support, so it may be one per process.
struct Device {
  std::recursive_mutex mutex;
  uint64_t seed = 0, drawn = 0, memory_bytes = uint64_t{1} << 30, allocated = 0;
  std::map<const char*, Memory> memory, pinned;
  std::vector<std::shared_ptr<Stream>> streams;
  std::string fault;   // the text of kFault
  uint64_t moves = 0;  // operations that all streams have done
  uint64_t graph_launches = 0;
  int patience_ms = 2000;
  bool late = false;                     // ScopedLateStreams
  uint64_t others = 0, others_more = 0;  // bytes, ScopedNeighbor

  uint64_t Draw() {
    std::seed_seq sequence{seed, seed >> 32, drawn++};
    uint32_t words[2];
    sequence.generate(words, words + 2);
    return uint64_t{words[0]} << 32 | words[1];
  }
};

Device& TheDevice() {
  static Device device;
  return device;
}

const std::shared_ptr<Stream>& StreamOf(GpuStreamRef stream) {
  return *static_cast<std::shared_ptr<Stream>*>(stream.handle);
}

// Runs operations until `position` are done, one fails or one has to wait.
void RunUntil(Stream& stream, uint64_t position) {
  while (stream.done < position && stream.error == 0 && !stream.queue.empty()) {
    Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    const int answer = operation.run();
    if (answer == kNotReady) {
      stream.queue.push_front(std::move(operation));
      return;
    }
    stream.error = answer;
    ++stream.done;
    ++TheDevice().moves;
  }
}

void RunAll() {
  const auto streams = TheDevice().streams;
  for (const auto& stream : streams) RunUntil(*stream, stream->put);
}

// As RunUntil, for a host that blocks until then: the other streams run, other threads may put more into
// them.
void BlockUntil(std::unique_lock<std::recursive_mutex>& lock, Stream& stream, uint64_t position) {
  Device& device = TheDevice();
  const std::chrono::milliseconds patience(device.patience_ms);
  auto give_up = std::chrono::steady_clock::now() + patience;
  while (true) {
    RunUntil(stream, position);
    if (stream.done >= position || stream.error != 0) return;
    const uint64_t before = device.moves;
    RunAll();
    const auto now = std::chrono::steady_clock::now();
    if (device.moves != before) {
      give_up = now + patience;
    } else if (now > give_up) {
      device.fault = absl::StrCat("nothing moves: a stream is at ", stream.queue.front().call,
                                  ", which waits for something that does not come");
      stream.error = kFault;
      return;
    } else {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      lock.lock();
    }
  }
}

int Put(GpuStreamRef ref, const char* call, std::function<int()> run) {
  Device& device = TheDevice();
  std::lock_guard lock(device.mutex);
  Stream& stream = *StreamOf(ref);
  if (stream.error != 0) return stream.error;
  if (stream.capture != nullptr) {
    stream.capture->nodes.push_back({{call, std::move(run)}});
    return 0;
  }
  stream.queue.push_back({call, std::move(run)});
  ++stream.put;
  if (device.Draw() % 2 == 0 && !device.late) RunUntil(stream, stream.put);
  return 0;
}

bool Within(const std::map<const char*, Memory>& all, const void* p, uint64_t bytes) {
  const char* const at = static_cast<const char*>(p);
  auto next = all.upper_bound(at);
  if (next == all.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second.bytes;
}

int RunGrid(const char* name, dim3 grid, dim3 block, uint32_t shared_bytes, uint64_t seed,
            const std::function<void()>& body) {
  std::mt19937_64 random(seed);
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  BlockRunner runner(name, grid, block, shared_bytes);
  for (const uint64_t i : order) {
    const uint3 index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                         static_cast<unsigned>(i / grid.x / grid.y)};
    std::string fault = runner.Run(index, random(), body);
    if (fault.empty()) continue;
    absl::StrAppend(&fault, " (emulation seed ", TheDevice().seed, ")");
    TheDevice().fault = fault;
    return kFault;
  }
  return 0;
}

thread_local int current_device = 0;
thread_local int captures = 0;  // that the thread has begun: it may not allocate until their end

}  // namespace

ScopedSeed::ScopedSeed(uint64_t seed) {
  std::lock_guard lock(TheDevice().mutex);
  before_ = std::exchange(TheDevice().seed, seed);
  TheDevice().drawn = 0;
}
ScopedSeed::~ScopedSeed() {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().seed = before_;
}

ScopedLateStreams::ScopedLateStreams() {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().late = true;
}
ScopedLateStreams::~ScopedLateStreams() {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().late = false;
}

void SetMemoryBytes(uint64_t bytes) {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().memory_bytes = bytes;
}

ScopedNeighbor::ScopedNeighbor(uint64_t bytes) {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().others_more = bytes;
}
ScopedNeighbor::~ScopedNeighbor() {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().others = TheDevice().others_more = 0;
}

int CurrentDevice() { return current_device; }

void SetPatienceMs(int milliseconds) {
  std::lock_guard lock(TheDevice().mutex);
  TheDevice().patience_ms = milliseconds;
}

uint64_t GraphLaunches() {
  std::lock_guard lock(TheDevice().mutex);
  return TheDevice().graph_launches;
}

int EnqueueWaiting(GpuStreamRef stream, const char* name, std::function<int()> poll) {
  return Put(stream, name, std::move(poll));
}

int Enqueue(GpuStreamRef stream, const char* name, dim3 grid, dim3 block, uint32_t shared_bytes,
            std::function<void()> body) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    return kInvalidConfiguration;
  }
  if (shared_bytes > kSharedBytesMax) return kInvalidValue;
  std::lock_guard lock(TheDevice().mutex);
  const uint64_t seed = TheDevice().Draw();
  return Put(stream, name,
             [=, body = std::move(body)] { return RunGrid(name, grid, block, shared_bytes, seed, body); });
}

}  // namespace lombard::emulation

namespace lombard::device_api {

using namespace lombard::emulation;  // NOLINT: the other half of the same thing

Devices FindDevices() { return {Presence::kPresent, kDevices, 0, 13000, 13000}; }

GpuError Describe(int device, GpuInfo* info) {
  *info = {device, "emulated", 8, 0, TheDevice().memory_bytes, 4, kSharedBytesMax, 1 << 20, "emulated"};
  info->on_host = true;
  return {};
}

GpuError MakeCurrent(int device) {
  current_device = device;
  return {};
}

GpuError MemoryInfo(int, uint64_t* free_bytes, uint64_t* total_bytes) {
  std::lock_guard lock(TheDevice().mutex);
  Device& device = TheDevice();
  *total_bytes = device.memory_bytes;
  *free_bytes = device.memory_bytes - std::min(device.memory_bytes, device.allocated + device.others);
  device.others += device.others_more;
  return {};
}

std::string ErrorText(int code) {
  switch (code) {
    case kInvalidValue:
      return "invalid argument";
    case kMemoryAllocation:
      return "out of memory";
    case kInvalidConfiguration:
      return "invalid configuration argument";
    case kIllegalAddress:
      return "not device memory, nor pinned";
    case kCaptureUnsupported:
      return "operation not permitted while a stream is recorded";
    case kCaptureIsolation:
      return "a recorded stream would wait for what is not recorded";
    case kFault: {
      std::lock_guard lock(TheDevice().mutex);
      return TheDevice().fault;
    }
  }
  return absl::StrCat("error ", code);
}

namespace {

Memory NewMemory(uint64_t bytes, void** memory) {
  CHECK_EQ(posix_memalign(memory, 256, bytes), 0);  // aligned as the device's; the sanitizer knows the end
  std::memset(*memory, 0xff, bytes);
  return {bytes, std::unique_ptr<void, FreeDeleter>(*memory)};
}

}  // namespace

GpuError Allocate(int, uint64_t bytes, void** memory) {
  Device& device = TheDevice();
  std::lock_guard lock(device.mutex);
  if (captures > 0) return {kCaptureUnsupported, "cudaMalloc"};
  if (bytes > device.memory_bytes || device.allocated > device.memory_bytes - bytes)
    return {kMemoryAllocation, "cudaMalloc"};
  Memory made = NewMemory(bytes, memory);
  device.allocated += bytes;
  device.memory.emplace(static_cast<const char*>(*memory), std::move(made));
  return {};
}
GpuError Free(int, void* memory) {
  Device& device = TheDevice();
  std::lock_guard lock(device.mutex);
  RunAll();
  const auto found = device.memory.find(static_cast<const char*>(memory));
  if (found == device.memory.end()) return {kInvalidValue, "cudaFree"};
  device.allocated -= found->second.bytes;
  device.memory.erase(found);
  return {};
}
GpuError AllocatePinned(int, uint64_t bytes, void** memory) {
  std::lock_guard lock(TheDevice().mutex);
  if (captures > 0) return {kCaptureUnsupported, "cudaHostAlloc"};
  Memory made = NewMemory(bytes, memory);
  TheDevice().pinned.emplace(static_cast<const char*>(*memory), std::move(made));
  return {};
}
GpuError FreePinned(int, void* memory) {
  std::lock_guard lock(TheDevice().mutex);
  RunAll();
  return {TheDevice().pinned.erase(static_cast<const char*>(memory)) == 1 ? 0 : kInvalidValue,
          "cudaFreeHost"};
}

GpuError CreateStream(int, int, void** stream) {
  std::lock_guard lock(TheDevice().mutex);
  auto made = std::make_shared<Stream>();
  TheDevice().streams.push_back(made);
  *stream = new std::shared_ptr<Stream>(std::move(made));
  return {};
}
GpuError DestroyStream(GpuStreamRef stream) {
  std::unique_lock lock(TheDevice().mutex);
  const std::shared_ptr<Stream> state = StreamOf(stream);
  BlockUntil(lock, *state, state->put);
  std::erase(TheDevice().streams, state);
  delete static_cast<std::shared_ptr<Stream>*>(stream.handle);
  return {};
}
GpuError Synchronize(GpuStreamRef stream) {
  std::unique_lock lock(TheDevice().mutex);
  Stream& state = *StreamOf(stream);
  if (state.capture != nullptr) return {kCaptureUnsupported, "cudaStreamSynchronize"};
  BlockUntil(lock, state, state.put);
  return {state.error, "cudaStreamSynchronize"};
}
GpuError StreamIsDone(GpuStreamRef stream, bool* done) {
  std::lock_guard lock(TheDevice().mutex);
  Stream& state = *StreamOf(stream);
  if (state.capture != nullptr) return {kCaptureUnsupported, "cudaStreamQuery"};
  // Work goes on while the host asks: a poll that waits for the end must find it.
  RunUntil(state, state.done + 1);
  *done = state.done == state.put;
  return {state.error, "cudaStreamQuery"};
}

GpuError CreateEvent(int, bool, void** event) {
  *event = new Event;
  return {};
}
GpuError DestroyEvent(int, void* event) {
  delete static_cast<Event*>(event);
  return {};
}
GpuError Record(void* event, GpuStreamRef stream) {
  std::lock_guard lock(TheDevice().mutex);
  Event& state = *static_cast<Event*>(event);
  if (Graph* const graph = StreamOf(stream)->capture.get(); graph != nullptr) {
    graph->nodes.push_back({{}, &state});
    return {};
  }
  state.stream = StreamOf(stream);
  state.position = state.stream->put;
  return {state.stream->error, "cudaEventRecord"};
}
GpuError Wait(GpuStreamRef stream, void* event) {
  std::lock_guard lock(TheDevice().mutex);
  const Event state = *static_cast<Event*>(event);
  if (StreamOf(stream)->capture != nullptr) return {kCaptureIsolation, "cudaStreamWaitEvent"};
  if (state.stream == nullptr) return {};
  return {Put(stream, "cudaStreamWaitEvent",
              [state] {
                RunUntil(*state.stream, state.position);
                const bool passed = state.stream->done >= state.position || state.stream->error != 0;
                return passed ? state.stream->error : kNotReady;
              }),
          "cudaStreamWaitEvent"};
}
GpuError SynchronizeEvent(int, void* event) {
  std::unique_lock lock(TheDevice().mutex);
  const Event& state = *static_cast<Event*>(event);
  if (state.stream == nullptr) return {};
  BlockUntil(lock, *state.stream, state.position);
  return {state.stream->error, "cudaEventSynchronize"};
}
GpuError EventIsDone(int, void* event, bool* done) {
  std::lock_guard lock(TheDevice().mutex);
  const Event& state = *static_cast<Event*>(event);
  *done = true;
  if (state.stream == nullptr) return {};
  if (state.stream->done < state.position) RunUntil(*state.stream, state.stream->done + 1);
  *done = state.stream->done >= state.position;
  return {state.stream->error, "cudaEventQuery"};
}
GpuError ElapsedMs(int, void*, void*, float* milliseconds) {
  *milliseconds = 0;  // no clock here
  return {};
}

GpuError BeginCapture(GpuStreamRef stream) {
  std::lock_guard lock(TheDevice().mutex);
  Stream& state = *StreamOf(stream);
  if (state.capture != nullptr) return {kCaptureUnsupported, "cudaStreamBeginCapture"};
  state.capture = std::make_unique<Graph>();
  ++captures;
  return {};
}
GpuError EndCapture(GpuStreamRef stream, void** graph) {
  std::lock_guard lock(TheDevice().mutex);
  --captures;
  *graph = StreamOf(stream)->capture.release();
  return {};
}
GpuError UploadGraph(void* graph, GpuStreamRef) {
  Device& device = TheDevice();
  std::lock_guard lock(device.mutex);
  Graph& state = *static_cast<Graph*>(graph);
  const uint64_t bytes = 256 * state.nodes.size() - state.bytes;
  if (bytes > 0 && device.allocated + bytes > device.memory_bytes)
    return {kMemoryAllocation, "cudaGraphUpload"};
  device.allocated += bytes, state.bytes += bytes;
  return {};
}
GpuError LaunchGraph(void* graph, GpuStreamRef stream) {
  std::lock_guard lock(TheDevice().mutex);
  if (const GpuError error = UploadGraph(graph, stream); !error.ok()) return {error.code, "cudaGraphLaunch"};
  ++TheDevice().graph_launches;
  for (const Node& node : static_cast<Graph*>(graph)->nodes) {
    const GpuError error =
        node.event != nullptr
            ? Record(node.event, stream)
            : GpuError{Put(stream, node.operation.call, node.operation.run), "cudaGraphLaunch"};
    if (!error.ok()) return error;
  }
  return {};
}
GpuError DestroyGraph(int, void* graph) {
  std::lock_guard lock(TheDevice().mutex);
  const std::unique_ptr<Graph> gone(static_cast<Graph*>(graph));
  TheDevice().allocated -= gone->bytes;
  return {};
}

GpuError Copy(void* dst, const void* src, uint64_t bytes, GpuStreamRef stream) {
  Device& device = TheDevice();
  std::lock_guard lock(device.mutex);
  for (const void* side : {static_cast<const void*>(dst), src})
    if (!Within(device.memory, side, bytes) && !Within(device.pinned, side, bytes))
      return {kIllegalAddress, "cudaMemcpyAsync"};
  return {Put(stream, "cudaMemcpyAsync",
              [=] {
                std::memmove(dst, src, bytes);
                return 0;
              }),
          "cudaMemcpyAsync"};
}
GpuError Fill(void* memory, uint8_t byte, uint64_t bytes, GpuStreamRef stream) {
  std::lock_guard lock(TheDevice().mutex);
  if (!Within(TheDevice().memory, memory, bytes)) return {kIllegalAddress, "cudaMemsetAsync"};
  return {Put(stream, "cudaMemsetAsync",
              [=] {
                std::memset(memory, byte, bytes);
                return 0;
              }),
          "cudaMemsetAsync"};
}

}  // namespace lombard::device_api
