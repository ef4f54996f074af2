// One function a family of kernels: adds its bindings to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace tpdm {

void bind_kspace(pybind11::module_& module);
void bind_lines(pybind11::module_& module);
void bind_philox(pybind11::module_& module);
void bind_profile(pybind11::module_& module);
void bind_radon(pybind11::module_& module);
void bind_update(pybind11::module_& module);

}  // namespace tpdm
