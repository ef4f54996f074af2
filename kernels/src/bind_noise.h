// A stack of slices and its noise, as Python hands them over.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "array.h"
#include "noise.h"

namespace tpdm {

inline Stack stack_of(const char* kernel, const std::vector<std::int64_t>& shape) {
  require(shape.size() == 3, kernel, "a stack must be (n_slices, n_rows, n_columns)");
  return Stack{shape[0], shape[1], shape[2]};
}

// None; a key (seed, step, phase, start, slice stride, row stride, column stride); or float32 of the stack's shape.
inline Noise noise_of(const char* kernel, py::object noise, const std::vector<std::int64_t>& shape) {
  Noise found{};
  if (noise.is_none()) return found;
  if (py::isinstance<py::tuple>(noise)) {
    const py::tuple key = noise;
    require(key.size() == 7, kernel, "a key of noise must have 7 entries");
    found.keyed = true;
    found.seed = key[0].cast<std::uint64_t>();
    found.step = key[1].cast<std::uint32_t>();
    found.phase = key[2].cast<std::uint32_t>();
    found.start = key[3].cast<std::uint64_t>();
    for (std::size_t axis = 0; axis < 3; ++axis) found.strides[axis] = key[4 + axis].cast<std::int64_t>();
    return found;
  }
  const Array<const float> stored = array_of<const float>(kernel, "noise", noise);
  require(stored.shape == shape, kernel, "noise must have the shape of x");
  found.stored = stored.data;
  return found;
}

}  // namespace tpdm
