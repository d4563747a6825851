// The few functions of the CUDA runtime that base/device stands on, with the device as an argument instead of
// a thread's state. Three implementations, of which a program links one: cuda_api.cc (the runtime, linked
// statically), no_cuda_api.cc (built without CUDA: nothing but "no GPU") and tests/emulation (a device that
// is plain memory). Nothing but base/device calls these.
#pragma once

#include <cstdint>
#include <string>

#include "base/device/gpu_error.h"
#include "base/device/gpu_info.h"

namespace lombard::device_api {

// Why there is no GPU, or that there is one.
enum class Presence : uint8_t { kPresent, kNotBuilt, kNoDriver, kDriverTooOld, kNoDevice, kFailed };
// code: cudaError_t, for kFailed.
struct Devices {
  Presence presence = Presence::kNotBuilt;
  int count = 0, code = 0;
  int driver_version = 0, runtime_version = 0;  // 13000: 13.0; 0: unknown
};
Devices FindDevices();
GpuError Describe(int device, GpuInfo* info);
GpuError MakeCurrent(int device);  // of the calling thread
GpuError MemoryInfo(int device, uint64_t* free_bytes, uint64_t* total_bytes);
std::string ErrorText(int code);  // "out of memory"

GpuError Allocate(int device, uint64_t bytes, void** memory);
GpuError Free(int device, void* memory);  // waits for the device's work
GpuError AllocatePinned(int device, uint64_t bytes, void** memory);
GpuError FreePinned(int device, void* memory);

// priority: 0 ordinary, negative more urgent. Streams do not wait for the default stream.
GpuError CreateStream(int device, int priority, void** stream);
GpuError DestroyStream(GpuStreamRef stream);  // after its work
GpuError Synchronize(GpuStreamRef stream);
GpuError StreamIsDone(GpuStreamRef stream, bool* done);

GpuError CreateEvent(int device, bool timing, void** event);
GpuError DestroyEvent(int device, void* event);
GpuError Record(void* event, GpuStreamRef stream);
GpuError Wait(GpuStreamRef stream, void* event);
GpuError SynchronizeEvent(int device, void* event);
GpuError EventIsDone(int device, void* event, bool* done);
GpuError ElapsedMs(int device, void* start, void* end, float* milliseconds);

// What is put into the stream from Begin to End becomes a graph instead of running; Record in it marks each
// launch's own point. Meanwhile the thread may neither allocate nor wait for the stream. A failed End leaves
// the stream as before Begin.
GpuError BeginCapture(GpuStreamRef stream);
GpuError EndCapture(GpuStreamRef stream, void** graph);
// Takes the graph's device memory; else its first launch does.
GpuError UploadGraph(void* graph, GpuStreamRef stream);
GpuError LaunchGraph(void* graph, GpuStreamRef stream);
GpuError DestroyGraph(int device, void* graph);

// In the stream's order; either side may be device memory or host memory.
GpuError Copy(void* dst, const void* src, uint64_t bytes, GpuStreamRef stream);
GpuError Fill(void* memory, uint8_t byte, uint64_t bytes, GpuStreamRef stream);

}  // namespace lombard::device_api
