// Lines of a volume, each with a filter of its own, by threads of the CPU.
#include "lines.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

// Neighbouring lines that one task works on: a row of them, and as many rows as there are taps, stay in the first cache.
constexpr std::int64_t kLines = 256;
// Samples of contiguous lines that one task works on.
constexpr std::int64_t kChunk = std::int64_t{1} << 16;

// The inputs of a line that lie `stride` apart all have the same place in neighbouring lines with the same first tap:
// `width` such lines, the first of them number `number`, with the weights of every tap side by side in `weights`.
TPDM_WIDE void filter_side_by_side(const float* from, const LineFilters& filters, float* to, std::int64_t stride,
                                   std::int64_t number, std::int64_t width, float* weights) {
  for (std::int64_t j = 0; j < width; ++j) {
    for (std::int64_t k = 0; k < filters.n_taps; ++k) {
      weights[k * kLines + j] = filters.weights[(number + j) * filters.n_taps + k];
    }
  }
  for (std::int64_t i = 0; i < filters.n_out; ++i) {
    float* sum = to + i * stride;
    std::fill(sum, sum + width, 0.0f);
    const std::int64_t start = i + filters.firsts[number];
    const std::int64_t begin = std::max<std::int64_t>(0, -start);
    const std::int64_t end = std::min(filters.n_taps, filters.n_in - start);
    for (std::int64_t k = begin; k < end; ++k) {
      const float* value = from + (start + k) * stride;
      const float* weight = weights + k * kLines;
      for (std::int64_t j = 0; j < width; ++j) sum[j] += weight[j] * value[j];
    }
  }
}

// The same for one line whose entries lie next to each other.
TPDM_WIDE void filter_along(const float* from, const LineFilters& filters, float* to, std::int64_t number) {
  const float* weight = filters.weights + number * filters.n_taps;
  std::fill(to, to + filters.n_out, 0.0f);
  for (std::int64_t k = 0; k < filters.n_taps; ++k) {
    const std::int64_t shift = filters.firsts[number] + k;
    const std::int64_t begin = std::max<std::int64_t>(0, -shift);
    const std::int64_t end = std::min(filters.n_out, filters.n_in - shift);
    const float w = weight[k];
    for (std::int64_t i = begin; i < end; ++i) to[i] += w * from[i + shift];
  }
}

}  // namespace

void filter_lines(const float* from, const LineFilters& filters, float* to, std::int64_t n_outer, std::int64_t n_inner,
                  const Context& context) {
  if (n_inner == 1) {
    const std::int64_t size = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, filters.n_out));
    parallel_for((n_outer + size - 1) / size, context, [&](std::int64_t task) {
      const std::int64_t last = std::min(n_outer, (task + 1) * size);
      for (std::int64_t line = task * size; line < last; ++line) {
        filter_along(from + line * filters.n_in, filters, to + line * filters.n_out, line);
      }
    });
    return;
  }
  const std::int64_t n_chunks = (n_inner + kLines - 1) / kLines;
  parallel_for(n_outer * n_chunks, context, [&](std::int64_t task) {
    const std::int64_t outer = task / n_chunks, begin = task % n_chunks * kLines;
    const std::int64_t end = std::min(n_inner, begin + kLines);
    std::vector<float> weights(static_cast<std::size_t>(kLines * filters.n_taps));
    const std::int64_t* firsts = filters.firsts + outer * n_inner;
    for (std::int64_t j = begin; j < end;) {
      // A run of lines that start at the same place.
      std::int64_t stop = j + 1;
      while (stop < end && firsts[stop] == firsts[j]) ++stop;
      filter_side_by_side(from + outer * filters.n_in * n_inner + j, filters,
                          to + outer * filters.n_out * n_inner + j, n_inner, outer * n_inner + j, stop - j,
                          weights.data());
      j = stop;
    }
  });
}

}  // namespace tpdm
