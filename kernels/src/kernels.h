// The kernels as plain functions over contiguous arrays; the bindings have checked every size.
//
// Declared once, defined twice: in the .cpp files for CPU threads, in the .cu files for a GPU.
#pragma once

#include <cstdint>

#include "context.h"
#include "noise.h"
#include "kspace.h"
#include "lines.h"
#include "profile.h"
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

// out = the stack's keyed noise
void philox_slices(const Stack& stack, const Noise& noise, float* out, const Context& context);

// counters, out (count, 4)
void philox_bits(const std::uint32_t* counters, std::uint32_t key0, std::uint32_t key1, std::uint32_t* out,
                 std::int64_t count, const Context& context);

// Into how many parts `score_norms` cuts the sums of a slice.
std::int64_t norm_parts(const Stack& stack);

// norms (n_slices, 2) = sums of (x0 - x)^2 and of noise^2 over each slice; parts (n_parts, n_slices, 2) is scratch.
// Noise may not be none.
void score_norms(const Stack& stack, const float* x, const float* x0, const Noise& noise, double* parts,
                 std::int64_t n_parts, double* norms, const Context& context);

// a, b (n_slices) from norms (n_slices, 2); group g is slices bounds[g] ... bounds[g + 1] - 1, and bounds is in the
// host's memory
void langevin_steps(const double* norms, const std::int64_t* bounds, std::int64_t n_groups, double snr, double variance,
                    float* a, float* b, const Context& context);

// out = x + a (x0 - x) + b noise - weight pullback; a, b, weight (n_slices). Without noise b is not read; pullback may
// be null, then weight is not read. out may be any of the stacks.
void sampler_update(const Stack& stack, const float* x, const float* x0, const Noise& noise, const float* a,
                    const float* b, const float* pullback, const float* weight, float* out, const Context& context);

// Number of float64 values that the two kernels below need as scratch.
std::int64_t kspace_scratch(const Spectra& spectra);

// f <- scale * weight * r with the norms of r and d, of every slice: f, y, e (n_slices, n_copies, n_rows, n_columns),
// weight (n_rows, n_columns), scaled, plain (n_slices)
void kspace_residual(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled, double* plain,
                     const Context& context);

// f (n_slices, n_rows, n_columns) <- half of the Hermitian part of the same, with the norms of the whole: y, e
// (n_slices, 2, n_rows, n_columns), weight (2, n_rows, n_columns)
void kspace_residual_half(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled,
                          double* plain, const Context& context);

// images (n_slices, n_pixels), maps (n_slices or 1, n_coils, n_pixels) -> coils (n_slices, n_coils, n_pixels)
void coil_expand(const float* images, const Complex* maps, Complex* coils, const Coils& sizes, const Context& context);
void coil_expand(const Complex* images, const Complex* maps, Complex* coils, const Coils& sizes,
                 const Context& context);

// The transpose: the sum over coils of conj(map) * coil; for real images its real part
void coil_combine(const Complex* coils, const Complex* maps, float* images, const Coils& sizes, const Context& context);
void coil_combine(const Complex* coils, const Complex* maps, Complex* images, const Coils& sizes,
                  const Context& context);

// from (n_outer, n_in, n_inner) -> to (n_outer, n_out, n_inner): weighted sums over runs of the middle axis
void banded_sum(const float* from, const Bands& bands, float* to, std::int64_t n_outer, std::int64_t n_inner,
                const Context& context);

// from (n_outer, n_in, n_inner) -> to (n_outer, n_out, n_inner): every line along the middle axis through its own filter
void filter_lines(const float* from, const LineFilters& filters, float* to, std::int64_t n_outer, std::int64_t n_inner,
                  const Context& context);

}  // namespace tpdm
