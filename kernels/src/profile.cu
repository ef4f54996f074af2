// Weighted sums over runs of an axis on a GPU.
#include "profile.h"

#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

// One thread an entry of the result.
struct BandedSum {
  const float* from;
  Bands bands;
  float* to;
  std::int64_t n_inner;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::int64_t row = i / n_inner, outer = row / bands.n_out;
    const float* line = from + outer * bands.n_in * n_inner + i % n_inner;
    to[i] = run_sum(bands, row % bands.n_out, line, n_inner);
  }
};

}  // namespace

void banded_sum(const float* from, const Bands& bands, float* to, std::int64_t n_outer, std::int64_t n_inner,
                const Context& context) {
  launch("banded_sum", n_outer * bands.n_out * n_inner, context, BandedSum{from, bands, to, n_inner});
}

}  // namespace tpdm
