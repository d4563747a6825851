// Built without CUDA: there is no GPU, and whoever asks one for anything is told so.
#include "base/device/device_api.h"

namespace lombard::device_api {
namespace {

constexpr int kNoDevice = 100;  // cudaErrorNoDevice
GpuError None(const char* call) { return {kNoDevice, call}; }

}  // namespace

Devices FindDevices() { return {}; }
std::string ErrorText(int code) {
  return code == kNoDevice ? "built without CUDA kernels" : "unknown CUDA error";
}
GpuError Describe(int, GpuInfo*) { return None("cudaGetDeviceProperties"); }
GpuError MakeCurrent(int) { return None("cudaSetDevice"); }
GpuError MemoryInfo(int, uint64_t*, uint64_t*) { return None("cudaMemGetInfo"); }
GpuError Allocate(int, uint64_t, void**) { return None("cudaMalloc"); }
GpuError Free(int, void*) { return None("cudaFree"); }
GpuError AllocatePinned(int, uint64_t, void**) { return None("cudaHostAlloc"); }
GpuError FreePinned(int, void*) { return None("cudaFreeHost"); }
GpuError CreateStream(int, int, void**) { return None("cudaStreamCreateWithPriority"); }
GpuError DestroyStream(GpuStreamRef) { return None("cudaStreamDestroy"); }
GpuError Synchronize(GpuStreamRef) { return None("cudaStreamSynchronize"); }
GpuError StreamIsDone(GpuStreamRef, bool*) { return None("cudaStreamQuery"); }
GpuError CreateEvent(int, bool, void**) { return None("cudaEventCreateWithFlags"); }
GpuError DestroyEvent(int, void*) { return None("cudaEventDestroy"); }
GpuError Record(void*, GpuStreamRef) { return None("cudaEventRecord"); }
GpuError Wait(GpuStreamRef, void*) { return None("cudaStreamWaitEvent"); }
GpuError SynchronizeEvent(int, void*) { return None("cudaEventSynchronize"); }
GpuError EventIsDone(int, void*, bool*) { return None("cudaEventQuery"); }
GpuError ElapsedMs(int, void*, void*, float*) { return None("cudaEventElapsedTime"); }
GpuError BeginCapture(GpuStreamRef) { return None("cudaStreamBeginCapture"); }
GpuError EndCapture(GpuStreamRef, void**) { return None("cudaStreamEndCapture"); }
GpuError UploadGraph(void*, GpuStreamRef) { return None("cudaGraphUpload"); }
GpuError LaunchGraph(void*, GpuStreamRef) { return None("cudaGraphLaunch"); }
GpuError DestroyGraph(int, void*) { return None("cudaGraphExecDestroy"); }
GpuError Copy(void*, const void*, uint64_t, GpuStreamRef) { return None("cudaMemcpyAsync"); }
GpuError Fill(void*, uint8_t, uint64_t, GpuStreamRef) { return None("cudaMemsetAsync"); }

}  // namespace lombard::device_api
