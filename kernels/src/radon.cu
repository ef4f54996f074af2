// Projections on a GPU.
#include <stdexcept>

#include "kernels.h"
#include "launch.h"

namespace tpdm {

[[noreturn]] void missing() { throw std::runtime_error("radon: no CUDA kernels in this version"); }

void radon_forward(const float*, float*, std::int64_t, const Lattice&, const View*, std::int64_t, const Context&) { missing(); }
void radon_adjoint(const float*, float*, std::int64_t, const Lattice&, const View*, std::int64_t, const Context&) { missing(); }
void radon_backproject(const float*, float*, std::int64_t, const Lattice&, const View*, std::int64_t, double,
                       const Context&) { missing(); }

}  // namespace tpdm
