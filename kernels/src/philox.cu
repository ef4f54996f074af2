// Counter-based noise on a GPU: one thread draws one block of four words.
#include "philox.h"

#include "kernels.h"
#include "launch.h"
#include "noise_fours.h"

namespace tpdm {
namespace {

// Voxels 4 (first_block + i) … + 3 as far as they lie in the range [start, start + count).
struct NormalBlock {
  std::uint64_t seed, start;
  std::uint32_t step, phase;
  float* out;
  std::int64_t count;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::uint64_t block = start / 4 + static_cast<std::uint64_t>(i);
    const Normals z = normals_from_words(noise_block(seed, block, step, phase));
    const float values[4] = {z.z0, z.z1, z.z2, z.z3};
    const std::int64_t first = 4 * i - static_cast<std::int64_t>(start % 4);
    for (int k = 0; k < 4; ++k) {
      if (first + k >= 0 && first + k < count) out[first + k] = values[k];
    }
  }
};

struct Slices {
  Fours fours;
  float* out;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    float* const to = out;
    fours.visit(i / fours.n_units_a_group, i % fours.n_units_a_group,
                [to](int, std::int64_t, std::int64_t entry, float z) { to[entry] = z; });
  }
};

struct Bits {
  const std::uint32_t* counters;
  std::uint32_t key0, key1;
  std::uint32_t* out;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::uint32_t* c = counters + 4 * i;
    const Words w = philox4x32_10(Words{c[0], c[1], c[2], c[3]}, key0, key1);
    out[4 * i] = w.w0;
    out[4 * i + 1] = w.w1;
    out[4 * i + 2] = w.w2;
    out[4 * i + 3] = w.w3;
  }
};

}  // namespace

void philox_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, float* out,
                   std::int64_t count, const Context& context) {
  if (count == 0) return;
  const std::int64_t n_blocks = (static_cast<std::int64_t>(start % 4) + count + 3) / 4;
  launch("philox_normal", n_blocks, context, NormalBlock{seed, start, step, phase, out, count});
}

void philox_slices(const Stack& stack, const Noise& noise, float* out, const Context& context) {
  const Fours fours(stack, noise);
  launch("philox_slices", fours.n_groups * fours.n_units_a_group, context, Slices{fours, out});
}

void philox_bits(const std::uint32_t* counters, std::uint32_t key0, std::uint32_t key1, std::uint32_t* out,
                 std::int64_t count, const Context& context) {
  launch("philox_bits", count, context, Bits{counters, key0, key1, out});
}

}  // namespace tpdm
