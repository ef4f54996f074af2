// The sampler's arithmetic for one entry, one row's sums and one group: what CPU and GPU compile from the same text.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace tpdm {

// Every product and sum is rounded to float32, in this order.
TPDM_HD float denoised(float x, float x0, float a) { return x + a * (x0 - x); }
TPDM_HD float noised(float x, float b, float z) { return x + b * z; }
TPDM_HD float descended(float x, float weight, float pullback) { return x - weight * pullback; }

// The square of a float32 is exact in float64.
TPDM_HD double square(float value) { return static_cast<double>(value) * static_cast<double>(value); }

struct LangevinStep {
  float a, b;
};

// The corrector's step for slices first … last - 1, whose norms are taken together: with s = (x0 - x) / variance,
// epsilon = 2 (snr mean|z| / mean|s|)^2, and x + epsilon s + sqrt(2 epsilon) z = x + a (x0 - x) + b z.
//
// norms (n_slices, 2): squares of |x0 - x| and of |z|.
TPDM_HD LangevinStep langevin_step(const double* norms, std::int64_t first, std::int64_t last, double snr,
                                   double variance) {
  // Both means have the same number of terms: their ratio is that of the sums.
  double sum_score = 0, sum_noise = 0;
  for (std::int64_t i = first; i < last; ++i) {
    sum_score += sqrt(norms[2 * i]);
    sum_noise += sqrt(norms[2 * i + 1]);
  }
  // A score of exactly zero sets no scale to walk on: the group stays where it is.
  if (sum_score == 0) return LangevinStep{0.0f, 0.0f};
  const double root = snr * (sum_noise * variance / sum_score);
  // b = sqrt(2 epsilon) = 2 root, without a detour over the square.
  return LangevinStep{static_cast<float>(2 * root * root / variance), static_cast<float>(2 * root)};
}

}  // namespace tpdm
