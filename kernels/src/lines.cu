// Lines of a volume, each with a filter of its own, on a GPU.
#include "lines.h"

#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

// One thread an output.
struct FilterLines {
  const float* from;
  LineFilters filters;
  float* to;
  std::int64_t n_inner;

  TPDM_KERNEL void operator()(std::int64_t thread) const {
    const std::int64_t inner = thread % n_inner, row = thread / n_inner;
    const std::int64_t outer = row / filters.n_out;
    const float* line = from + outer * filters.n_in * n_inner + inner;
    to[thread] = filtered(filters, outer * n_inner + inner, line, n_inner, row % filters.n_out);
  }
};

}  // namespace

void filter_lines(const float* from, const LineFilters& filters, float* to, std::int64_t n_outer, std::int64_t n_inner,
                  const Context& context) {
  launch("filter_lines", n_outer * filters.n_out * n_inner, context, FilterLines{from, filters, to, n_inner});
}

}  // namespace tpdm
