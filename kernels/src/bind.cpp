// The native module; one binary for CPU threads, one for a GPU, both with the same functions.
//
// Every function takes contiguous arrays of the exact type, converts nothing, lets other Python threads run, and takes
// as its last argument what it runs on: a number of threads, or the address of a CUDA stream.
#include <pybind11/pybind11.h>

#include "bind.h"

PYBIND11_MODULE(TPDM_MODULE, module) {
  module.doc() = "Native kernels; called through the checked wrappers of the package.";
  tpdm::bind_kspace(module);
  tpdm::bind_lines(module);
  tpdm::bind_philox(module);
  tpdm::bind_profile(module);
  tpdm::bind_radon(module);
  tpdm::bind_update(module);
}
