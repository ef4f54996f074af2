// Counter-based noise over ranges of voxels and over stacks of slices.
#include "noise_rows.h"

#include "kernels.h"

namespace tpdm {
namespace {

constexpr std::int64_t kChunkBlocks = std::int64_t{1} << 13;

// The part of one block that a range wants, at its ragged ends.
void normal_partial(const Noise& noise, std::uint64_t voxel, float* out, std::int64_t count) {
  float block[4];
  normal_blocks(noise, voxel / 4, block, 1);
  for (std::int64_t k = 0; k < count; ++k) out[k] = block[voxel % 4 + static_cast<std::uint64_t>(k)];
}

}  // namespace

TPDM_WIDE void normal_blocks(const Noise& noise, std::uint64_t first, float* out, std::int64_t n_blocks) {
  const std::uint64_t seed = noise.seed;
  const std::uint32_t step = noise.step, phase = noise.phase;
  for (std::int64_t i = 0; i < n_blocks; ++i) {
    const Normals z = normals_from_words(noise_block(seed, first + static_cast<std::uint64_t>(i), step, phase));
    out[4 * i] = z.z0;
    out[4 * i + 1] = z.z1;
    out[4 * i + 2] = z.z2;
    out[4 * i + 3] = z.z3;
  }
}

TPDM_WIDE void normal_lanes(const Noise& noise, std::uint64_t voxel, std::uint64_t stride, float* out,
                            std::int64_t count) {
  const std::uint64_t seed = noise.seed;
  const std::uint32_t step = noise.step, phase = noise.phase;
  float* __restrict out0 = out;
  float* __restrict out1 = out + count;
  float* __restrict out2 = out + 2 * count;
  float* __restrict out3 = out + 3 * count;
  for (std::int64_t c = 0; c < count; ++c) {
    const Normals z = normals_from_words(noise_block(seed, voxel / 4, step, phase));
    voxel += stride;
    out0[c] = z.z0;
    out1[c] = z.z1;
    out2[c] = z.z2;
    out3[c] = z.z3;
  }
}

TPDM_WIDE void normal_singles(const Noise& noise, std::uint64_t voxel, std::uint64_t stride, float* out,
                              std::int64_t count) {
  // A copy: out might otherwise change what it points to.
  const Noise key = noise;
  for (std::int64_t c = 0; c < count; ++c) {
    out[c] = normal_of_voxel(key, voxel);
    voxel += stride;
  }
}

TPDM_WIDE void gather_row(const float* from, const std::int32_t* offsets, float* out, std::int64_t count) {
#if defined(__GNUC__)
#pragma GCC ivdep
#endif
  for (std::int64_t c = 0; c < count; ++c) out[c] = from[offsets[c] + c];
}

void philox_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, float* out,
                   std::int64_t count, const Context& context) {
  const Noise noise{nullptr, true, seed, start, step, phase, {0, 0, 1}};
  const std::int64_t head = std::min<std::int64_t>(count, static_cast<std::int64_t>((4 - start % 4) % 4));
  if (head > 0) normal_partial(noise, start, out, head);
  const std::int64_t n_blocks = (count - head) / 4;
  const std::uint64_t first_block = (start + static_cast<std::uint64_t>(head)) / 4;
  parallel_for((n_blocks + kChunkBlocks - 1) / kChunkBlocks, context, [&, head, n_blocks](std::int64_t task) {
    const std::int64_t first = task * kChunkBlocks;
    normal_blocks(noise, first_block + static_cast<std::uint64_t>(first), out + head + 4 * first,
                  std::min(kChunkBlocks, n_blocks - first));
  });
  const std::int64_t done = head + 4 * n_blocks;
  if (done < count) normal_partial(noise, start + static_cast<std::uint64_t>(done), out + done, count - done);
}

void philox_slices(const Stack& stack, const Noise& noise, float* out, const Context& context) {
  visit_rows(stack, noise, context, [&](std::int64_t slice, std::int64_t row, const float* z) {
    std::copy_n(z, stack.n_columns, out + (slice * stack.n_rows + row) * stack.n_columns);
  });
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
