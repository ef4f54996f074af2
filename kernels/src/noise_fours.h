// Shares a stack out among the threads of a GPU so that no block of the noise generator is computed four times.
#pragma once

#include <cstdint>

#include "launch.h"
#include "noise.h"

namespace tpdm {

// A stack in units of `width` entries: four neighbours along the axis on which they share blocks of the generator, or
// single entries where they share none. Units are numbered by group (of slices) and, within it, in C order, so that
// threads with consecutive units read consecutive columns (or consecutive fours of columns).
struct Fours {
  Stack stack;
  Noise noise;
  int axis;            // of the four; 3 for single entries
  std::int64_t width;  // 4 or 1
  std::int64_t n_groups, n_units_a_group, unit_columns;

  Fours(const Stack& of, const Noise& with)
      : stack(of), noise(with), axis(with.keyed ? with.unit_axis() : 3), width(axis < 3 ? 4 : 1) {
    const auto fours = [](std::int64_t n) { return (n + 3) / 4; };
    n_groups = axis == 0 ? fours(of.n_slices) : of.n_slices;
    unit_columns = axis == 2 ? fours(of.n_columns) : of.n_columns;
    n_units_a_group = (axis == 1 ? fours(of.n_rows) : of.n_rows) * unit_columns;
  }

  // Call visit(k, slice, entry, z) for the entries of a unit that lie in the stack, k = 0 … width - 1 in order.
  template <class Visit>
  TPDM_KERNEL void visit(std::int64_t group, std::int64_t unit, const Visit& visit_entry) const {
    const std::int64_t slice = axis == 0 ? 4 * group : group;
    const std::int64_t row = unit / unit_columns * (axis == 1 ? 4 : 1);
    const std::int64_t column = unit % unit_columns * (axis == 2 ? 4 : 1);
    const std::int64_t entry = (slice * stack.n_rows + row) * stack.n_columns + column;
    if (width == 1) {
      float z = 0.0f;
      if (noise.keyed) {
        z = normal_of_voxel(noise, noise.voxel(slice, row, column));
      } else if (noise.stored != nullptr) {
        z = noise.stored[entry];
      }
      visit_entry(0, slice, entry, z);
      return;
    }
    const std::int64_t left =
        axis == 0 ? stack.n_slices - slice : (axis == 1 ? stack.n_rows - row : stack.n_columns - column);
    const std::int64_t next = axis == 0 ? stack.slice_size() : (axis == 1 ? stack.n_columns : 1);
    float z[4];
    normals_of_four(noise, noise.voxel(slice, row, column), z);
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int k = 0; k < 4; ++k) {
      if (k < left) visit_entry(k, axis == 0 ? slice + k : slice, entry + k * next, z[k]);
    }
  }
};

}  // namespace tpdm
