// Residuals in k-space and sums over coils, by threads of the CPU.
#include "kspace.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

// Samples of a partial sum. Fixed, so that no result depends on the number of threads; large enough that starting a
// thread is noise beside it.
constexpr std::int64_t kPart = std::int64_t{1} << 15;
// Samples that vector code takes together.
constexpr int kSamples = 16;
constexpr int kFloats = 2 * kSamples;

std::int64_t parts_of(std::int64_t n) { return (n + kPart - 1) / kPart; }

// No more threads than there is work for: workers of a denoiser bring a few slices each, and are threads themselves.
Context worth(std::int64_t n, const Context& context) {
  return Context{static_cast<int>(std::min<std::int64_t>(context.n_threads, parts_of(n)))};
}

// One sum a lane: a compiler may not reorder a sum of floating-point numbers, so the lanes are written down.
struct Lanes {
  double scaled[kFloats] = {}, plain[kFloats] = {};
};

// weighted_residual of kSamples samples, float by float. The same bits as one by one.
template <bool kNoise>
TPDM_HD void block_residual(const Samples& s, std::int64_t at, std::int64_t offset, float* result, Lanes& lanes) {
  const float* f = &s.f[at].re;
  const float* y = &s.y[at + offset].re;
  float weight[kFloats], d[kFloats];
  for (int i = 0; i < kSamples; ++i) weight[2 * i] = weight[2 * i + 1] = s.weight[at + offset + i];
  for (int i = 0; i < kFloats; ++i) d[i] = weight[i] * f[i] - y[i];
  for (int i = 0; i < kFloats; ++i) lanes.plain[i] += static_cast<double>(d[i]) * static_cast<double>(d[i]);
  for (int i = 0; i < kFloats; ++i) d[i] *= s.scale;
  if (kNoise) {
    const float* e = &s.e[at + offset].re;
    for (int i = 0; i < kFloats; ++i) d[i] -= e[i];
    for (int i = 0; i < kFloats; ++i) lanes.scaled[i] += static_cast<double>(d[i]) * static_cast<double>(d[i]);
  }
  for (int i = 0; i < kFloats; ++i) result[i] = s.scale * weight[i] * d[i];
}

template <int kSlots, bool kNoise>
TPDM_HD SquaredNorms replace_samples(const Samples& s, std::int64_t count) {
  Lanes lanes;
  SquaredNorms norms{0, 0};
  std::int64_t at = 0;
  for (; at + kSamples <= count; at += kSamples) {
    float one[kFloats], other[kFloats];
    float* f = &s.f[at].re;
    block_residual<kNoise>(s, at, 0, one, lanes);
    if (kSlots == 2) {
      block_residual<kNoise>(s, at, s.mirror, other, lanes);
      for (int i = 0; i < kFloats; ++i) one[i] = 0.5f * (one[i] + other[i]);
    }
    for (int i = 0; i < kFloats; ++i) f[i] = one[i];
  }
  for (; at < count; ++at) replace_sample<kSlots, kNoise>(s, at, norms);
  for (int i = 0; i < kFloats; ++i) {
    norms.scaled += lanes.scaled[i];
    norms.plain += lanes.plain[i];
  }
  return norms;
}

// Templates cannot be compiled for several instruction sets; these can.
using Replace = SquaredNorms (*)(const Samples&, std::int64_t);
TPDM_WIDE SquaredNorms full(const Samples& s, std::int64_t count) { return replace_samples<1, false>(s, count); }
TPDM_WIDE SquaredNorms full_noise(const Samples& s, std::int64_t count) { return replace_samples<1, true>(s, count); }
TPDM_WIDE SquaredNorms half(const Samples& s, std::int64_t count) { return replace_samples<2, false>(s, count); }
TPDM_WIDE SquaredNorms half_noise(const Samples& s, std::int64_t count) { return replace_samples<2, true>(s, count); }

// A slice's samples lie `stride` apart in y and e.
void residual(const Samples& all, const Spectra& spectra, std::int64_t stride, Replace replace, double* scratch,
              double* scaled, double* plain, const Context& context) {
  const std::int64_t n = spectra.n_samples(), n_parts = parts_of(n), n_tasks = spectra.n_copies * n_parts;
  const auto work = [&](std::int64_t task) {
    const std::int64_t copy = task / n_parts, first = task % n_parts * kPart;
    Samples s = all.from(first);
    s.f += copy * n;
    s.y += copy * stride;
    if (s.e != nullptr) s.e += copy * stride;
    const SquaredNorms norms = replace(s, std::min(kPart, n - first));
    scratch[2 * task] = norms.scaled;
    scratch[2 * task + 1] = norms.plain;
  };
  parallel_for(spectra.n_slices * n_tasks, worth(spectra.n_slices * spectra.n_copies * n, context), work);
  for (std::int64_t slice = 0; slice < spectra.n_slices; ++slice) {
    scaled[slice] = plain[slice] = 0;
    for (std::int64_t task = slice * n_tasks; task < (slice + 1) * n_tasks; ++task) {
      scaled[slice] += scratch[2 * task];
      plain[slice] += scratch[2 * task + 1];
    }
    if (all.e == nullptr) scaled[slice] = plain[slice] * all.scale * all.scale;
  }
}

// Pixels of one slice, as seen by all coils.
template <class Pixel>
TPDM_HD void expand_pixels(const Pixel* x, const Complex* map, Complex* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = times(map[i], x[i]);
}
TPDM_WIDE void expand_real(const float* x, const Complex* map, Complex* out, std::int64_t count) {
  expand_pixels(x, map, out, count);
}
TPDM_WIDE void expand_complex(const Complex* x, const Complex* map, Complex* out, std::int64_t count) {
  expand_pixels(x, map, out, count);
}

template <class Pixel>
TPDM_HD void combine_pixels(const Complex* coil, const Complex* map, Pixel* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) add_conjugate_product(map[i], coil[i], out[i]);
}
TPDM_WIDE void combine_real(const Complex* coil, const Complex* map, float* out, std::int64_t count) {
  combine_pixels(coil, map, out, count);
}
TPDM_WIDE void combine_complex(const Complex* coil, const Complex* map, Complex* out, std::int64_t count) {
  combine_pixels(coil, map, out, count);
}

template <class Pixel>
void expand(const Pixel* images, const Complex* maps, Complex* coils, const Coils& c, const Context& context,
            void (*chunk)(const Pixel*, const Complex*, Complex*, std::int64_t)) {
  const std::int64_t n_parts = parts_of(c.n_pixels);
  parallel_for(c.n_slices * c.n_coils * n_parts, worth(c.n_slices * c.n_coils * c.n_pixels, context),
               [&](std::int64_t task) {
                 const std::int64_t row = task / n_parts, first = task % n_parts * kPart;
                 chunk(images + row / c.n_coils * c.n_pixels + first, maps + c.map_of(row) + first,
                       coils + row * c.n_pixels + first, std::min(kPart, c.n_pixels - first));
               });
}

template <class Pixel>
void combine(const Complex* coils, const Complex* maps, Pixel* images, const Coils& c, const Context& context,
             void (*chunk)(const Complex*, const Complex*, Pixel*, std::int64_t)) {
  const std::int64_t n_parts = parts_of(c.n_pixels);
  parallel_for(c.n_slices * n_parts, worth(c.n_slices * c.n_coils * c.n_pixels, context), [&](std::int64_t task) {
    const std::int64_t slice = task / n_parts, first = task % n_parts * kPart;
    const std::int64_t count = std::min(kPart, c.n_pixels - first);
    Pixel* out = images + slice * c.n_pixels + first;
    std::fill(out, out + count, Pixel{});
    for (std::int64_t row = slice * c.n_coils; row < (slice + 1) * c.n_coils; ++row) {
      chunk(coils + row * c.n_pixels + first, maps + c.map_of(row) + first, out, count);
    }
  });
}

}  // namespace

std::int64_t kspace_scratch(const Spectra& spectra) {
  return 2 * spectra.n_slices * spectra.n_copies * parts_of(spectra.n_samples());
}

void kspace_residual(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled, double* plain,
                     const Context& context) {
  residual(samples, spectra, spectra.n_samples(), samples.e == nullptr ? full : full_noise, scratch, scaled, plain,
           context);
}

void kspace_residual_half(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled,
                          double* plain, const Context& context) {
  residual(samples, spectra, 2 * spectra.n_samples(), samples.e == nullptr ? half : half_noise, scratch, scaled, plain,
           context);
  for (std::int64_t pair = 0; pair < spectra.n_pairs(); ++pair) fold_pair(samples.f, spectra, pair);
}

void coil_expand(const float* images, const Complex* maps, Complex* coils, const Coils& sizes, const Context& context) {
  expand(images, maps, coils, sizes, context, expand_real);
}

void coil_expand(const Complex* images, const Complex* maps, Complex* coils, const Coils& sizes,
                 const Context& context) {
  expand(images, maps, coils, sizes, context, expand_complex);
}

void coil_combine(const Complex* coils, const Complex* maps, float* images, const Coils& sizes,
                  const Context& context) {
  combine(coils, maps, images, sizes, context, combine_real);
}

void coil_combine(const Complex* coils, const Complex* maps, Complex* images, const Coils& sizes,
                  const Context& context) {
  combine(coils, maps, images, sizes, context, combine_complex);
}

}  // namespace tpdm
