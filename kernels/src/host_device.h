// Marks per-sample mathematics that host and device compile from the same text.
#pragma once

#if defined(__CUDACC__)
#define TPDM_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Forced, so that the code ends up inside loops compiled for a wider instruction set than the file's.
#define TPDM_HD inline __attribute__((always_inline))
#else
#define TPDM_HD inline
#endif
