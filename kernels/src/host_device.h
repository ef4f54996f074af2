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

// Several versions of a hot loop in one binary, chosen once at load time. Without contraction all give the same bits.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__CUDACC__) && !defined(TPDM_SANITIZED)
#define TPDM_WIDE __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define TPDM_WIDE
#endif
