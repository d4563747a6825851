// The CUDA runtime. It is linked statically and finds the driver itself, so a program with it starts
// anywhere.
#include <cuda.h>  // types alone: the driver is found at run time
#include <cuda_runtime_api.h>

#include "absl/strings/str_format.h"
#include "base/device/device_api.h"

namespace lombard::device_api {
namespace {

GpuError Answer(cudaError_t code, const char* call) {
  // What a call reports is reported once; errors that the device keeps come back by themselves.
  if (code != cudaSuccess) static_cast<void>(cudaGetLastError());
  return {static_cast<int>(code), call};
}

cudaStream_t Stream(GpuStreamRef stream) { return static_cast<cudaStream_t>(stream.handle); }
cudaEvent_t Event(void* event) { return static_cast<cudaEvent_t>(event); }

// An attribute that only the driver's own interface has.
bool GivesDmaBuf(int device) {
  void* function = nullptr;
  auto found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t code =
      cudaGetDriverEntryPointByVersion("cuDeviceGetAttribute", &function, 11070, cudaEnableDefault, &found);
#else
  const cudaError_t code =
      cudaGetDriverEntryPoint("cuDeviceGetAttribute", &function, cudaEnableDefault, &found);
#endif
  if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  int gives = 0;
  const auto get = reinterpret_cast<CUresult (*)(int*, CUdevice_attribute, CUdevice)>(function);
  return get(&gives, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, device) == CUDA_SUCCESS && gives != 0;
}

}  // namespace

// The current device is the calling thread's; every function names its own first.
#define LOMBARD_ON_DEVICE(device)                                                  \
  if (const cudaError_t selected = cudaSetDevice(device); selected != cudaSuccess) \
  return Answer(selected, "cudaSetDevice")

Devices FindDevices() {
  Devices found;
  const cudaError_t code = cudaGetDeviceCount(&found.count);
  static_cast<void>(cudaDriverGetVersion(&found.driver_version));
  static_cast<void>(cudaRuntimeGetVersion(&found.runtime_version));
  static_cast<void>(cudaGetLastError());
  found.code = code;
  if (code == cudaSuccess && found.count > 0) {
    found.presence = Presence::kPresent;
  } else if (code == cudaErrorNoDevice || code == cudaSuccess) {
    found.presence = Presence::kNoDevice;
  } else if (code == cudaErrorInsufficientDriver) {  // also what a host without any driver answers
    found.presence = found.driver_version == 0 ? Presence::kNoDriver : Presence::kDriverTooOld;
  } else {
    found.presence = Presence::kFailed;
  }
  if (found.presence != Presence::kPresent) found.count = 0;
  return found;
}

GpuError Describe(int device, GpuInfo* info) {
  cudaDeviceProp properties;
  if (const GpuError error = Answer(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
      !error.ok()) {
    return error;
  }
  info->device = device;
  info->name = properties.name;
  info->compute_major = properties.major, info->compute_minor = properties.minor;
  info->memory_bytes = properties.totalGlobalMem;
  info->multiprocessors = properties.multiProcessorCount;
  info->shared_bytes_max = static_cast<uint32_t>(properties.sharedMemPerBlockOptin);
  info->l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  info->pci = absl::StrFormat("%04x:%02x:%02x.0", properties.pciDomainID, properties.pciBusID,
                              properties.pciDeviceID);
  info->dma_buf = GivesDmaBuf(device);
  return {};
}

GpuError MakeCurrent(int device) {
  LOMBARD_ON_DEVICE(device);
  return {};
}

GpuError MemoryInfo(int device, uint64_t* free_bytes, uint64_t* total_bytes) {
  LOMBARD_ON_DEVICE(device);
  size_t free = 0, total = 0;
  const GpuError error = Answer(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  *free_bytes = free, *total_bytes = total;
  return error;
}

std::string ErrorText(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

GpuError Allocate(int device, uint64_t bytes, void** memory) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaMalloc(memory, bytes), "cudaMalloc");
}
GpuError Free(int device, void* memory) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaFree(memory), "cudaFree");
}
GpuError AllocatePinned(int device, uint64_t bytes, void** memory) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaHostAlloc(memory, bytes, cudaHostAllocPortable), "cudaHostAlloc");
}
GpuError FreePinned(int device, void* memory) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaFreeHost(memory), "cudaFreeHost");
}

GpuError CreateStream(int device, int priority, void** stream) {
  LOMBARD_ON_DEVICE(device);
  cudaStream_t created = nullptr;
  const GpuError error = Answer(cudaStreamCreateWithPriority(&created, cudaStreamNonBlocking, priority),
                                "cudaStreamCreateWithPriority");
  *stream = created;
  return error;
}
GpuError DestroyStream(GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaStreamDestroy(Stream(stream)), "cudaStreamDestroy");
}
GpuError Synchronize(GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaStreamSynchronize(Stream(stream)), "cudaStreamSynchronize");
}
GpuError StreamIsDone(GpuStreamRef stream, bool* done) {
  LOMBARD_ON_DEVICE(stream.device);
  const cudaError_t code = cudaStreamQuery(Stream(stream));
  *done = code == cudaSuccess;
  return Answer(code == cudaErrorNotReady ? cudaSuccess : code, "cudaStreamQuery");
}

GpuError CreateEvent(int device, bool timing, void** event) {
  LOMBARD_ON_DEVICE(device);
  cudaEvent_t created = nullptr;
  const GpuError error =
      Answer(cudaEventCreateWithFlags(&created, timing ? cudaEventDefault : cudaEventDisableTiming),
             "cudaEventCreateWithFlags");
  *event = created;
  return error;
}
GpuError DestroyEvent(int device, void* event) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaEventDestroy(Event(event)), "cudaEventDestroy");
}
GpuError Record(void* event, GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (const GpuError error = Answer(cudaStreamIsCapturing(Stream(stream), &capture), "cudaStreamIsCapturing");
      !error.ok()) {
    return error;
  }
  const unsigned flags =
      capture == cudaStreamCaptureStatusActive ? cudaEventRecordExternal : cudaEventRecordDefault;
  return Answer(cudaEventRecordWithFlags(Event(event), Stream(stream), flags), "cudaEventRecordWithFlags");
}
GpuError Wait(GpuStreamRef stream, void* event) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaStreamWaitEvent(Stream(stream), Event(event), 0), "cudaStreamWaitEvent");
}
GpuError SynchronizeEvent(int device, void* event) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaEventSynchronize(Event(event)), "cudaEventSynchronize");
}
GpuError EventIsDone(int device, void* event, bool* done) {
  LOMBARD_ON_DEVICE(device);
  const cudaError_t code = cudaEventQuery(Event(event));
  *done = code == cudaSuccess;
  return Answer(code == cudaErrorNotReady ? cudaSuccess : code, "cudaEventQuery");
}
GpuError ElapsedMs(int device, void* start, void* end, float* milliseconds) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaEventElapsedTime(milliseconds, Event(start), Event(end)), "cudaEventElapsedTime");
}

GpuError BeginCapture(GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  // Other threads go on allocating and waiting.
  return Answer(cudaStreamBeginCapture(Stream(stream), cudaStreamCaptureModeThreadLocal),
                "cudaStreamBeginCapture");
}
GpuError EndCapture(GpuStreamRef stream, void** graph) {
  LOMBARD_ON_DEVICE(stream.device);
  cudaGraph_t recorded = nullptr;
  if (const GpuError error = Answer(cudaStreamEndCapture(Stream(stream), &recorded), "cudaStreamEndCapture");
      !error.ok()) {
    return error;
  }
  cudaGraphExec_t made = nullptr;
  const GpuError error = Answer(cudaGraphInstantiate(&made, recorded, 0), "cudaGraphInstantiate");
  const GpuError destroyed = Answer(cudaGraphDestroy(recorded), "cudaGraphDestroy");
  *graph = made;
  return error.ok() ? destroyed : error;
}
GpuError UploadGraph(void* graph, GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaGraphUpload(static_cast<cudaGraphExec_t>(graph), Stream(stream)), "cudaGraphUpload");
}
GpuError LaunchGraph(void* graph, GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), Stream(stream)), "cudaGraphLaunch");
}
GpuError DestroyGraph(int device, void* graph) {
  LOMBARD_ON_DEVICE(device);
  return Answer(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy");
}

GpuError Copy(void* dst, const void* src, uint64_t bytes, GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, Stream(stream)), "cudaMemcpyAsync");
}
GpuError Fill(void* memory, uint8_t byte, uint64_t bytes, GpuStreamRef stream) {
  LOMBARD_ON_DEVICE(stream.device);
  return Answer(cudaMemsetAsync(memory, byte, bytes, Stream(stream)), "cudaMemsetAsync");
}

#undef LOMBARD_ON_DEVICE

}  // namespace lombard::device_api
