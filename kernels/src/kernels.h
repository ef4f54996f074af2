// The kernels as plain functions over contiguous arrays; the bindings have checked every size.
//
// Declared once, defined twice: in the .cpp files for CPU threads, in the .cu files for a GPU.
#pragma once

#include <cstdint>

#include "context.h"
#include "ray.h"

namespace tpdm {

// Floats of scratch memory that the projections need.
std::int64_t radon_forward_scratch(std::int64_t n_slices, const Scan& scan);
std::int64_t radon_adjoint_scratch(std::int64_t n_slices, const Scan& scan);

// images (n_slices, n_rows, n_columns) -> sinogram (n_slices, n_views, n_bins)
void radon_forward(const float* images, const Rays& rays, float* scratch, float* sinogram, std::int64_t n_slices,
                   const Scan& scan, const Context& context);

// sinogram (n_slices, n_views, n_bins) -> images (n_slices, n_rows, n_columns), the exact transpose of radon_forward
void radon_adjoint(const float* sinogram, const Rays& rays, const Shadow* shadows, float* scratch, float* images,
                   std::int64_t n_slices, const Scan& scan, const Context& context);

// filtered (n_slices, n_views, n_bins) -> images (n_slices, n_rows, n_columns): linear interpolation on the detector,
// weighted by nearness to the source, summed over views, times scale; scratch as for radon_adjoint
void radon_backproject(const float* filtered, const View* views, double scale, float* scratch, float* images,
                       std::int64_t n_slices, const Scan& scan, const Context& context);

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
