// The kernels as plain functions over contiguous arrays; the bindings have checked every size.
//
// Declared once, defined twice: in the .cpp files for CPU threads, in the .cu files for a GPU.
#pragma once

#include <cstdint>

#include "context.h"
#include "ray.h"

namespace tpdm {

// images (n_slices, n, n) -> sinogram (n_slices, n_views, m)
void radon_forward(const float* images, float* sinogram, std::int64_t n_slices, const Lattice& lattice,
                   const View* views, std::int64_t n_views, const Context& context);

// sinogram (n_slices, n_views, m) -> images (n_slices, n, n), the exact transpose of radon_forward
void radon_adjoint(const float* sinogram, float* images, std::int64_t n_slices, const Lattice& lattice,
                   const View* views, std::int64_t n_views, const Context& context);

// filtered (n_slices, n_views, m) -> images (n_slices, n, n): linear interpolation on the detector, summed over views
void radon_backproject(const float* filtered, float* images, std::int64_t n_slices, const Lattice& lattice,
                       const View* views, std::int64_t n_views, double scale, const Context& context);

// out[k] = normal of voxel start + k
void philox_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, float* out,
                   std::int64_t count, const Context& context);

// counters, out (count, 4)
void philox_bits(const std::uint32_t* counters, std::uint32_t key0, std::uint32_t key1, std::uint32_t* out,
                 std::int64_t count, const Context& context);

// out = x + a * score + b * noise; noise may be null; out may be any of the inputs
void fused_update(const float* x, const float* score, const float* noise, float a, float b, float* out,
                  std::int64_t count, const Context& context);

}  // namespace tpdm
