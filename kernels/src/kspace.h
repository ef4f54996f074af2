// The arithmetic of one sample of k-space and of one pixel seen by one coil, shared by host and device.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace tpdm {

// Two floats as they lie in an array of complex64.
struct Complex {
  float re, im;
};

TPDM_HD Complex times(float a, Complex z) { return Complex{a * z.re, a * z.im}; }
TPDM_HD Complex times(Complex a, Complex b) { return Complex{a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
TPDM_HD Complex times(Complex a, float b) { return Complex{a.re * b, a.im * b}; }
TPDM_HD Complex plus(Complex a, Complex b) { return Complex{a.re + b.re, a.im + b.im}; }
TPDM_HD Complex minus(Complex a, Complex b) { return Complex{a.re - b.re, a.im - b.im}; }
TPDM_HD Complex conjugate(Complex z) { return Complex{z.re, -z.im}; }

// Adds conj(a) b to a sum; of a real sum, the real part.
TPDM_HD void add_conjugate_product(Complex a, Complex b, Complex& sum) { sum = plus(sum, times(conjugate(a), b)); }
TPDM_HD void add_conjugate_product(Complex a, Complex b, float& sum) { sum += a.re * b.re + a.im * b.im; }

// Sums over |r|^2 and |d|^2.
struct SquaredNorms {
  double scaled, plain;
};

TPDM_HD void add_squared(Complex z, double& sum) {
  const double re = static_cast<double>(z.re), im = static_cast<double>(z.im);
  sum += re * re + im * im;
}

// Samples f of k-space and what was measured there: d = weight f - y, r = scale d - e.
//
// With two slots, every sample of half a spectrum stands for k and -k: `mirror` further on, weight, y and e are those
// at -k, the latter two conjugated. Without noise, e is null.
struct Samples {
  Complex* f;
  const Complex *y, *e;
  const float* weight;
  std::int64_t mirror;
  float scale;

  TPDM_HD Samples from(std::int64_t offset) const {
    return Samples{f + offset, y + offset, e == nullptr ? e : e + offset, weight + offset, mirror, scale};
  }
};

// scale weight r of the slot that starts `offset` further on.
template <bool kNoise>
TPDM_HD Complex weighted_residual(const Samples& s, std::int64_t at, std::int64_t offset, SquaredNorms& norms) {
  const float weight = s.weight[at + offset];
  const Complex d = minus(times(weight, s.f[at]), s.y[at + offset]);
  add_squared(d, norms.plain);
  Complex r = times(s.scale, d);
  if (kNoise) {
    r = minus(r, s.e[at + offset]);
    add_squared(r, norms.scaled);
  }
  return times(s.scale * weight, r);
}

// Replace a sample by scale weight r, or by the mean of the two slots.
template <int kSlots, bool kNoise>
TPDM_HD void replace_sample(const Samples& s, std::int64_t at, SquaredNorms& norms) {
  const Complex one = weighted_residual<kNoise>(s, at, 0, norms);
  s.f[at] = kSlots == 1 ? one : times(0.5f, plus(one, weighted_residual<kNoise>(s, at, s.mirror, norms)));
}

// The sizes of a stack of spectra: n_slices of n_copies (one a coil) of n_rows x n_columns samples, n_full columns if
// none is left out.
struct Spectra {
  std::int64_t n_slices, n_copies, n_rows, n_columns, n_full;

  TPDM_HD std::int64_t n_samples() const { return n_rows * n_columns; }
  // Columns of half a spectrum whose mirror image lies in themselves: of the zero and, if there is one, of the highest
  // frequency. Their second slots are empty, weight and all.
  TPDM_HD std::int64_t n_own_mirrors() const { return n_full % 2 == 0 ? 2 : 1; }
  // Pairs of samples to be made Hermitian, of all slices.
  TPDM_HD std::int64_t n_pairs() const { return n_slices * n_own_mirrors() * (n_rows / 2 + 1); }
};

// Give the own-mirror columns the Hermitian part of what they hold, twice: they had half of it from an empty slot.
TPDM_HD void fold_pair(Complex* f, const Spectra& spectra, std::int64_t pair) {
  const std::int64_t n_half = spectra.n_rows / 2 + 1;
  const std::int64_t row = pair % n_half, mirror = row == 0 ? 0 : spectra.n_rows - row;
  const std::int64_t column = pair / n_half % spectra.n_own_mirrors() * (spectra.n_columns - 1);
  Complex* slice = f + pair / n_half / spectra.n_own_mirrors() * spectra.n_samples();
  const Complex sum = plus(slice[row * spectra.n_columns + column],
                           conjugate(slice[mirror * spectra.n_columns + column]));
  slice[row * spectra.n_columns + column] = sum;
  slice[mirror * spectra.n_columns + column] = conjugate(sum);
}

// A stack of images seen by coils, whose maps are the same for every slice or not.
struct Coils {
  std::int64_t n_slices, n_coils, n_pixels;
  bool shared_maps;

  // Where the map of row slice * n_coils + coil starts.
  TPDM_HD std::int64_t map_of(std::int64_t row) const { return (shared_maps ? row % n_coils : row) * n_pixels; }
};

}  // namespace tpdm
