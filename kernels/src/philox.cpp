// Counter-based noise over ranges of voxels.
#include "philox.h"

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

constexpr std::int64_t kChunkBlocks = std::int64_t{1} << 13;

TPDM_WIDE void normal_blocks(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t first_block,
                             float* out, std::int64_t n_blocks) {
  for (std::int64_t i = 0; i < n_blocks; ++i) {
    const Normals z = normals_from_words(noise_block(seed, first_block + static_cast<std::uint64_t>(i), step, phase));
    out[4 * i] = z.z0;
    out[4 * i + 1] = z.z1;
    out[4 * i + 2] = z.z2;
    out[4 * i + 3] = z.z3;
  }
}

// The part of one block that a range wants, at its ragged ends.
void normal_partial(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t voxel, float* out,
                    std::int64_t count) {
  float block[4];
  normal_blocks(seed, step, phase, voxel / 4, block, 1);
  for (std::int64_t k = 0; k < count; ++k) out[k] = block[voxel % 4 + static_cast<std::uint64_t>(k)];
}

}  // namespace

void philox_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, float* out,
                   std::int64_t count, const Context& context) {
  const std::int64_t head = std::min<std::int64_t>(count, static_cast<std::int64_t>((4 - start % 4) % 4));
  if (head > 0) normal_partial(seed, step, phase, start, out, head);
  const std::int64_t n_blocks = (count - head) / 4;
  const std::uint64_t first_block = (start + static_cast<std::uint64_t>(head)) / 4;
  parallel_for((n_blocks + kChunkBlocks - 1) / kChunkBlocks, context, [=](std::int64_t task) {
    const std::int64_t first = task * kChunkBlocks;
    normal_blocks(seed, step, phase, first_block + static_cast<std::uint64_t>(first), out + head + 4 * first,
                  std::min(kChunkBlocks, n_blocks - first));
  });
  const std::int64_t done = head + 4 * n_blocks;
  if (done < count) {
    normal_partial(seed, step, phase, start + static_cast<std::uint64_t>(done), out + done, count - done);
  }
}

void philox_bits(const std::uint32_t* counters, std::uint32_t key0, std::uint32_t key1, std::uint32_t* out,
                 std::int64_t count, const Context& context) {
  parallel_for((count + kChunkBlocks - 1) / kChunkBlocks, context, [=](std::int64_t task) {
    const std::int64_t last = std::min(count, (task + 1) * kChunkBlocks);
    for (std::int64_t i = task * kChunkBlocks; i < last; ++i) {
      const std::uint32_t* c = counters + 4 * i;
      const Words w = philox4x32_10(Words{c[0], c[1], c[2], c[3]}, key0, key1);
      out[4 * i] = w.w0;
      out[4 * i + 1] = w.w1;
      out[4 * i + 2] = w.w2;
      out[4 * i + 3] = w.w3;
    }
  });
}

}  // namespace tpdm
