// One pass of x + a * score + b * noise.
#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

// Large enough that starting a thread is noise beside it, small enough to share out a single slice of 512 x 512.
constexpr std::int64_t kChunk = std::int64_t{1} << 16;

TPDM_WIDE void update_chunk(const float* x, const float* score, float a, float* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = x[i] + a * score[i];
}

TPDM_WIDE void update_chunk_noise(const float* x, const float* score, const float* noise, float a, float b, float* out,
                                  std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = (x[i] + a * score[i]) + b * noise[i];
}

}  // namespace

void fused_update(const float* x, const float* score, const float* noise, float a, float b, float* out,
                  std::int64_t count, const Context& context) {
  parallel_for((count + kChunk - 1) / kChunk, context, [=](std::int64_t task) {
    const std::int64_t first = task * kChunk;
    const std::int64_t n = std::min(kChunk, count - first);
    if (noise == nullptr) {
      update_chunk(x + first, score + first, a, out + first, n);
    } else {
      update_chunk_noise(x + first, score + first, noise + first, a, b, out + first, n);
    }
  });
}

}  // namespace tpdm
