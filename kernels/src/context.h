// What a kernel runs on: threads of the CPU, or a stream of a GPU. Every binary holds one of the two.
#pragma once

#include <cstdint>

namespace tpdm {

#if defined(TPDM_CUDA)
// The address of a cudaStream_t; null is the default stream.
struct Context {
  void* stream;
};
inline Context context_of(std::int64_t handle) { return Context{reinterpret_cast<void*>(handle)}; }
#else
struct Context {
  int n_threads;
};
inline Context context_of(std::int64_t handle) { return Context{static_cast<int>(handle)}; }
#endif

}  // namespace tpdm
