// The noise of a stack of slices: keyed by voxel and made where it is used, stored, or none.
#pragma once

#include <cstdint>

#include "philox.h"

namespace tpdm {

// (n_slices, n_rows, n_columns), C-contiguous
struct Stack {
  std::int64_t n_slices, n_rows, n_columns;

  TPDM_HD std::int64_t slice_size() const { return n_rows * n_columns; }
  TPDM_HD std::int64_t size() const { return n_slices * slice_size(); }
};

// Entry (i, r, c) of a stack is voxel start + i * strides[0] + r * strides[1] + c * strides[2] of the volume.
struct Noise {
  const float* stored;  // the stack itself; null unless it is stored
  bool keyed;
  std::uint64_t seed, start;
  std::uint32_t step, phase;
  std::int64_t strides[3];

  TPDM_HD std::uint64_t voxel(std::int64_t slice, std::int64_t row, std::int64_t column) const {
    return start + static_cast<std::uint64_t>(slice * strides[0] + row * strides[1] + column * strides[2]);
  }

  // The axis along which neighbours share blocks of the generator; 3 where there is none.
  TPDM_HD int unit_axis() const {
    for (int axis = 2; axis >= 0; --axis) {
      if (strides[axis] == 1) return axis;
    }
    return 3;
  }
};

// The normal of one voxel, the same bits as in its whole block at half of the block's transform.
TPDM_HD float normal_of_voxel(const Noise& noise, std::uint64_t voxel) {
  const Words w = noise_block(noise.seed, voxel / 4, noise.step, noise.phase);
  const bool second = (voxel & 2u) != 0u;
  float cosine, sine;
  normal_direction(second ? w.w3 : w.w1, cosine, sine);
  const float radius = normal_radius(second ? w.w2 : w.w0);
  return radius * ((voxel & 1u) != 0u ? sine : cosine);
}

// The normals of voxel … voxel + 3: one block where they fill it, else two.
TPDM_HD void normals_of_four(const Noise& noise, std::uint64_t voxel, float* z) {
  const Normals low = normals_from_words(noise_block(noise.seed, voxel / 4, noise.step, noise.phase));
  z[0] = low.z0;
  z[1] = low.z1;
  z[2] = low.z2;
  z[3] = low.z3;
  if (voxel % 4 == 0) return;
  const Normals high = normals_from_words(noise_block(noise.seed, voxel / 4 + 1, noise.step, noise.phase));
  // Shifted by one and by two, with fixed indices: a GPU keeps arrays in registers only if it knows every index.
  float next[3] = {high.z0, high.z1, high.z2};
  if ((voxel & 1u) != 0u) {
    z[0] = z[1];
    z[1] = z[2];
    z[2] = z[3];
    z[3] = next[0];
    next[0] = next[1];
    next[1] = next[2];
  }
  if ((voxel & 2u) != 0u) {
    z[0] = z[2];
    z[1] = z[3];
    z[2] = next[0];
    z[3] = next[1];
  }
}

}  // namespace tpdm
