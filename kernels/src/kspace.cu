// Residuals in k-space and sums over coils on a GPU.
#include "kspace.h"

#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

// A slice's norms are summed by kThreads threads that each take every kThreads-th sample, then by kSummers that each take
// as many of those sums, then by one: the order never changes.
constexpr std::int64_t kSummers = 32;
constexpr std::int64_t kThreads = kSummers * 32;

template <int kSlots, bool kNoise>
struct Replace {
  Samples all;
  Spectra spectra;
  SquaredNorms* partial;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::int64_t first = i / kThreads * spectra.n_copies, n = spectra.n_samples();
    SquaredNorms norms{0, 0};
    // Every copy has the same weights.
    for (std::int64_t copy = first; copy < first + spectra.n_copies; ++copy) {
      Samples s = all;
      s.f += copy * n;
      s.y += copy * n * kSlots;
      if (kNoise) s.e += copy * n * kSlots;
      for (std::int64_t at = i % kThreads; at < n; at += kThreads) replace_sample<kSlots, kNoise>(s, at, norms);
    }
    partial[i] = norms;
  }
};

struct Sum {
  const SquaredNorms* partial;
  SquaredNorms* sums;
  std::int64_t n_each;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    SquaredNorms sum{0, 0};
    for (std::int64_t k = i * n_each; k < (i + 1) * n_each; ++k) {
      sum.scaled += partial[k].scaled;
      sum.plain += partial[k].plain;
    }
    sums[i] = sum;
  }
};

struct Finish {
  const SquaredNorms* sums;
  double *scaled, *plain;
  float scale;
  bool has_noise;

  TPDM_KERNEL void operator()(std::int64_t slice) const {
    SquaredNorms total{0, 0};
    for (std::int64_t k = slice * kSummers; k < (slice + 1) * kSummers; ++k) {
      total.scaled += sums[k].scaled;
      total.plain += sums[k].plain;
    }
    plain[slice] = total.plain;
    scaled[slice] = has_noise ? total.scaled : total.plain * scale * scale;
  }
};

struct Fold {
  Complex* f;
  Spectra spectra;

  TPDM_KERNEL void operator()(std::int64_t pair) const { fold_pair(f, spectra, pair); }
};

template <int kSlots>
void residual(const char* name, const Samples& s, const Spectra& spectra, double* scratch, double* scaled,
              double* plain, const Context& context) {
  SquaredNorms* partial = reinterpret_cast<SquaredNorms*>(scratch);
  SquaredNorms* sums = partial + spectra.n_slices * kThreads;
  const std::int64_t n = spectra.n_slices * kThreads;
  if (s.e == nullptr) {
    launch(name, n, context, Replace<kSlots, false>{s, spectra, partial});
  } else {
    launch(name, n, context, Replace<kSlots, true>{s, spectra, partial});
  }
  launch("kspace_residual: sums", spectra.n_slices * kSummers, context, Sum{partial, sums, kThreads / kSummers});
  launch("kspace_residual: norms", spectra.n_slices, context, Finish{sums, scaled, plain, s.scale, s.e != nullptr});
}

// One thread a coil's pixel.
template <class Pixel>
struct Expand {
  const Pixel* images;
  const Complex* maps;
  Complex* coils;
  Coils sizes;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::int64_t row = i / sizes.n_pixels, pixel = i % sizes.n_pixels;
    coils[i] = times(maps[sizes.map_of(row) + pixel], images[row / sizes.n_coils * sizes.n_pixels + pixel]);
  }
};

// One thread an image's pixel.
template <class Pixel>
struct Combine {
  const Complex *coils, *maps;
  Pixel* images;
  Coils sizes;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::int64_t slice = i / sizes.n_pixels, pixel = i % sizes.n_pixels;
    Pixel sum{};
    for (std::int64_t row = slice * sizes.n_coils; row < (slice + 1) * sizes.n_coils; ++row) {
      add_conjugate_product(maps[sizes.map_of(row) + pixel], coils[row * sizes.n_pixels + pixel], sum);
    }
    images[i] = sum;
  }
};

}  // namespace

std::int64_t kspace_scratch(const Spectra& spectra) { return 2 * spectra.n_slices * (kThreads + kSummers); }

void kspace_residual(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled, double* plain,
                     const Context& context) {
  residual<1>("kspace_residual", samples, spectra, scratch, scaled, plain, context);
}

void kspace_residual_half(const Samples& samples, const Spectra& spectra, double* scratch, double* scaled,
                          double* plain, const Context& context) {
  residual<2>("kspace_residual_half", samples, spectra, scratch, scaled, plain, context);
  launch("kspace_residual_half: edges", spectra.n_pairs(), context, Fold{samples.f, spectra});
}

void coil_expand(const float* images, const Complex* maps, Complex* coils, const Coils& sizes, const Context& context) {
  launch("coil_expand", sizes.n_slices * sizes.n_coils * sizes.n_pixels, context,
         Expand<float>{images, maps, coils, sizes});
}

void coil_expand(const Complex* images, const Complex* maps, Complex* coils, const Coils& sizes,
                 const Context& context) {
  launch("coil_expand", sizes.n_slices * sizes.n_coils * sizes.n_pixels, context,
         Expand<Complex>{images, maps, coils, sizes});
}

void coil_combine(const Complex* coils, const Complex* maps, float* images, const Coils& sizes,
                  const Context& context) {
  launch("coil_combine", sizes.n_slices * sizes.n_pixels, context, Combine<float>{coils, maps, images, sizes});
}

void coil_combine(const Complex* coils, const Complex* maps, Complex* images, const Coils& sizes,
                  const Context& context) {
  launch("coil_combine", sizes.n_slices * sizes.n_pixels, context, Combine<Complex>{coils, maps, images, sizes});
}

}  // namespace tpdm
