// One pass of x + a * score + b * noise on a GPU.
#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

struct Update {
  const float *x, *score, *noise;
  float a, b;
  float* out;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const float moved = x[i] + a * score[i];
    out[i] = noise == nullptr ? moved : moved + b * noise[i];
  }
};

}  // namespace

void fused_update(const float* x, const float* score, const float* noise, float a, float b, float* out,
                  std::int64_t count, const Context& context) {
  launch("fused_update", count, context, Update{x, score, noise, a, b, out});
}

}  // namespace tpdm
