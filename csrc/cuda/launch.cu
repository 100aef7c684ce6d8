// What is known once a device: which code it runs, and how much shared memory a kernel may have.
#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "cuda/launch.h"

namespace fused_acts::cuda {
namespace {

__global__ void probe() {}

// Not that of the device, which may run what was compiled for an older one.
int find_code_architecture() {
  cudaFuncAttributes attributes;
  const cudaError_t error = reported(cudaFuncGetAttributes(&attributes, probe));
  return error == cudaSuccess ? attributes.ptxVersion : 0;
}

}  // namespace

int code_architecture() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0: not yet
  int device = 0;
  if (reported(cudaGetDevice(&device)) != cudaSuccess || device >= kDevices) return 0;
  int architecture = known[device].load(std::memory_order_relaxed);
  if (architecture == 0) {
    architecture = find_code_architecture();
    known[device].store(architecture, std::memory_order_relaxed);
  }
  return architecture;
}

cudaError_t allow_most_shared(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return reported(error);
  const std::lock_guard lock(mutex);
  if (allowed.count({kernel, device})) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kMostShared));
  if (error == cudaSuccess) allowed.emplace(kernel, device);
  return reported(error);
}

}  // namespace fused_acts::cuda
