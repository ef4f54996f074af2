// Lines of a volume, each with a filter of its own, as host and device see them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "host_device.h"

namespace tpdm {

// weights (n_outer * n_inner, n_taps), firsts (n_outer * n_inner): output i of a line is the sum over taps k of
// weights[k] * input[i + first + k], where there is such an input.
struct LineFilters {
  const float* weights;
  const std::int64_t* firsts;
  std::int64_t n_taps, n_in, n_out;
};

// One output; `line` is the first of n_in entries that lie `stride` apart. Only inputs that there are are read.
TPDM_HD float filtered(const LineFilters& filters, std::int64_t number, const float* line, std::int64_t stride,
                       std::int64_t i) {
  const float* weight = filters.weights + number * filters.n_taps;
  const std::int64_t from = i + filters.firsts[number];
  const std::int64_t begin = from < 0 ? -from : 0;
  const std::int64_t end = from + filters.n_taps > filters.n_in ? filters.n_in - from : filters.n_taps;
  float sum = 0;
  for (std::int64_t k = begin; k < end; ++k) sum += weight[k] * line[(from + k) * stride];
  return sum;
}

}  // namespace tpdm
