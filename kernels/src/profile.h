// A matrix whose rows are zero outside one run each, as host and device see it.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace tpdm {

// weights (n_out, n_taps); runs (n_out, 2): where a row's run starts, and how long it is.
struct Bands {
  const float* weights;
  const std::int64_t* runs;
  std::int64_t n_in, n_out, n_taps;

  TPDM_HD const float* weights_of(std::int64_t row) const { return weights + row * n_taps; }
  TPDM_HD std::int64_t first(std::int64_t row) const { return runs[2 * row]; }
  TPDM_HD std::int64_t length(std::int64_t row) const { return runs[2 * row + 1]; }
};

// One entry of the result; `line` is the first of n_in entries that lie `stride` apart. Only the run is read: what lies
// beside it may be no number.
TPDM_HD float run_sum(const Bands& bands, std::int64_t row, const float* line, std::int64_t stride) {
  const float* weight = bands.weights_of(row);
  const float* value = line + bands.first(row) * stride;
  float sum = 0;
  for (std::int64_t k = 0; k < bands.length(row); ++k) sum += weight[k] * value[k * stride];
  return sum;
}

}  // namespace tpdm
