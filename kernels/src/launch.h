// Runs numbered, independent threads on a GPU.
//
// A kernel is an object whose operator()(i) does the work of thread i and of no other: no shared memory, no barriers, no
// atomics. So the order of threads cannot change a result, and a host compiler can run the very same source in a loop,
// which is how the device code is tested where there is no GPU (TPDM_EMULATED).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "context.h"

#if defined(TPDM_EMULATED)
#define TPDM_KERNEL inline
#else
#include <cuda_runtime.h>
#define TPDM_KERNEL __device__ __forceinline__
#endif

namespace tpdm {

constexpr int kBlock = 256;

#if !defined(TPDM_EMULATED)
template <class Kernel>
__global__ void __launch_bounds__(kBlock) run(const Kernel kernel, const std::int64_t n_threads) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < n_threads) kernel(i);
}
#endif

// Start kernel(0) … kernel(n_threads - 1) on the context's stream; throws std::runtime_error naming the kernel.
template <class Kernel>
void launch(const char* name, std::int64_t n_threads, const Context& context, const Kernel& kernel) {
  if (n_threads <= 0) return;
#if defined(TPDM_EMULATED)
  (void)name;
  (void)context;
  for (std::int64_t i = 0; i < n_threads; ++i) kernel(i);
#else
  const std::int64_t n_blocks = (n_threads + kBlock - 1) / kBlock;
  if (n_blocks > 0x7fffffff) throw std::runtime_error(std::string(name) + ": too many elements for one launch");
  run<<<static_cast<unsigned>(n_blocks), kBlock, 0, static_cast<cudaStream_t>(context.stream)>>>(kernel, n_threads);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(status));
#endif
}

}  // namespace tpdm
