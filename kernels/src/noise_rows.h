// Walks through a stack on CPU threads, row by row, with every row's noise at hand and none of it stored for longer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "noise.h"
#include "parallel.h"

namespace tpdm {

// out[4 k] … out[4 k + 3] = the normals of block first + k
void normal_blocks(const Noise& noise, std::uint64_t first, float* out, std::int64_t n_blocks);

// out[k * count + c] = normal k of the block that voxel + c * stride lies in, k = 0 … 3
void normal_lanes(const Noise& noise, std::uint64_t voxel, std::uint64_t stride, float* out, std::int64_t count);

// out[c] = the normal of voxel + c * stride
void normal_singles(const Noise& noise, std::uint64_t voxel, std::uint64_t stride, float* out, std::int64_t count);

// out[c] = from[offsets[c] + c]
void gather_row(const float* from, const std::int32_t* offsets, float* out, std::int64_t count);

// Entries of a task: enough to hide its start, few enough to share out a small volume.
constexpr std::int64_t kTaskSize = std::int64_t{1} << 14;
// Slices (or rows) that are drawn together where they run along the volume's contiguous axis: their noise for a row of
// 256 columns takes 20 KiB, which the innermost cache holds.
constexpr std::int64_t kTile = 16;

// Rows one by one: stored noise, none, or noise drawn along the columns.
template <class Visit>
void visit_single_rows(const Stack& stack, const Noise& noise, const Context& context, const Visit& visit) {
  const std::int64_t w = stack.n_columns, n_rows = stack.n_slices * stack.n_rows;
  const std::int64_t per_task = std::max<std::int64_t>(1, kTaskSize / std::max<std::int64_t>(1, w));
  parallel_for((n_rows + per_task - 1) / per_task, context, [&, w, n_rows, per_task](std::int64_t task) {
    std::vector<float> buffer(noise.keyed ? static_cast<std::size_t>(w + 8) : 0);
    const std::int64_t last = std::min(n_rows, (task + 1) * per_task);
    for (std::int64_t index = task * per_task; index < last; ++index) {
      const std::int64_t slice = index / stack.n_rows, row = index % stack.n_rows;
      const float* z = noise.stored == nullptr ? nullptr : noise.stored + index * w;
      if (noise.keyed) {
        const std::uint64_t voxel = noise.voxel(slice, row, 0);
        if (noise.strides[2] == 1) {
          const std::int64_t ahead = static_cast<std::int64_t>(voxel % 4);
          normal_blocks(noise, voxel / 4, buffer.data(), (ahead + w + 3) / 4);
          z = buffer.data() + ahead;
        } else {
          normal_singles(noise, voxel, static_cast<std::uint64_t>(noise.strides[2]), buffer.data(), w);
          z = buffer.data();
        }
      }
      visit(slice, row, z);
    }
  });
}

// Several slices (axis 0) or rows (axis 1) at a time: neighbours along that axis share blocks. One block a column gives
// four rows of noise, so the buffer is written and read along the columns, and nothing needs to be transposed.
template <class Visit>
void visit_tiles(const Stack& stack, const Noise& noise, int axis, const Context& context, const Visit& visit) {
  const std::int64_t w = stack.n_columns;
  const std::int64_t along = axis == 0 ? stack.n_slices : stack.n_rows;
  const std::int64_t across = axis == 0 ? stack.n_rows : stack.n_slices;
  const std::int64_t n_tiles = (along + kTile - 1) / kTile;
  const std::int64_t per_task = std::max<std::int64_t>(1, kTaskSize / std::max<std::int64_t>(1, kTile * w));
  const std::int64_t tasks_a_tile = (across + per_task - 1) / per_task;
  const std::uint64_t stride = static_cast<std::uint64_t>(noise.strides[2]);
  parallel_for(n_tiles * tasks_a_tile, context, [&, w, along, across, per_task, tasks_a_tile, stride,
                                                 axis](std::int64_t task) {
    const bool uniform = stride % 4 == 0;
    std::vector<float> buffer(static_cast<std::size_t>((kTile + 4) * w));
    std::vector<float> gathered(uniform ? 0 : static_cast<std::size_t>(w));
    std::vector<std::int32_t> offsets(uniform ? 0 : static_cast<std::size_t>(w));
    const std::int64_t first = task / tasks_a_tile * kTile;
    const std::int64_t count = std::min(kTile, along - first);
    const std::int64_t begin = task % tasks_a_tile * per_task, end = std::min(across, begin + per_task);
    for (std::int64_t other = begin; other < end; ++other) {
      const std::uint64_t voxel = axis == 0 ? noise.voxel(first, other, 0) : noise.voxel(other, first, 0);
      // How far into its block the tile begins: at every column alike, or at each as far as offsets say.
      const std::int64_t ahead = uniform ? static_cast<std::int64_t>(voxel % 4) : 3;
      for (std::int64_t q = 0; 4 * q < ahead + count; ++q) {
        normal_lanes(noise, voxel + static_cast<std::uint64_t>(4 * q), stride, buffer.data() + 4 * q * w, w);
      }
      for (std::int64_t c = 0; !uniform && c < w; ++c) {
        const std::uint64_t shift = (voxel + static_cast<std::uint64_t>(c) * stride) % 4;
        offsets[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(static_cast<std::int64_t>(shift) * w);
      }
      for (std::int64_t k = 0; k < count; ++k) {
        const float* z = buffer.data() + (k + (uniform ? ahead : 0)) * w;
        if (!uniform) {
          gather_row(z, offsets.data(), gathered.data(), w);
          z = gathered.data();
        }
        if (axis == 0) {
          visit(first + k, other, z);
        } else {
          visit(other, first + k, z);
        }
      }
    }
  });
}

// Call visit(slice, row, z) once for every row of a stack, in no particular order; z is the row's noise, null without.
template <class Visit>
void visit_rows(const Stack& stack, const Noise& noise, const Context& context, const Visit& visit) {
  const int axis = noise.unit_axis();
  // The offsets of a tile are 32-bit numbers; longer rows than these would not share a cache anyway.
  if (noise.keyed && axis < 2 && stack.n_columns <= (std::int64_t{1} << 20)) {
    visit_tiles(stack, noise, axis, context, visit);
  } else {
    visit_single_rows(stack, noise, context, visit);
  }
}

}  // namespace tpdm
