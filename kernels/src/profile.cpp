// Weighted sums over runs of an axis, by threads of the CPU.
#include "profile.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

// Products that one task sums up: starting a thread is noise beside them.
constexpr std::int64_t kChunk = std::int64_t{1} << 16;

// Rows first … last - 1 of all (outer, row), numbered through; the axis lies innermost.
TPDM_WIDE void sum_along(const float* from, const Bands& bands, float* to, std::int64_t first, std::int64_t last) {
  std::int64_t row = first % bands.n_out;
  const float* line = from + first / bands.n_out * bands.n_in;
  for (std::int64_t i = first; i < last; ++i) {
    to[i] = run_sum(bands, row, line, 1);
    if (++row == bands.n_out) {
      row = 0;
      line += bands.n_in;
    }
  }
}

// The same where entries of the axis are n_inner apart: whole lines at a time.
TPDM_WIDE void sum_across(const float* from, const Bands& bands, float* to, std::int64_t n_inner, std::int64_t first,
                          std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t row = i % bands.n_out;
    const float* weight = bands.weights_of(row);
    const float* line = from + (i / bands.n_out * bands.n_in + bands.first(row)) * n_inner;
    float* sum = to + i * n_inner;
    std::fill(sum, sum + n_inner, 0.0f);
    for (std::int64_t k = 0; k < bands.length(row); ++k) {
      const float w = weight[k];
      const float* value = line + k * n_inner;
      for (std::int64_t j = 0; j < n_inner; ++j) sum[j] += w * value[j];
    }
  }
}

}  // namespace

void banded_sum(const float* from, const Bands& bands, float* to, std::int64_t n_outer, std::int64_t n_inner,
                const Context& context) {
  const std::int64_t n_rows = n_outer * bands.n_out;
  const std::int64_t size = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, bands.n_taps * n_inner));
  parallel_for((n_rows + size - 1) / size, context, [&](std::int64_t task) {
    const std::int64_t first = task * size, last = std::min(first + size, n_rows);
    if (n_inner == 1) {
      sum_along(from, bands, to, first, last);
    } else {
      sum_across(from, bands, to, n_inner, first, last);
    }
  });
}

}  // namespace tpdm
