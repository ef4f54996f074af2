// Python bindings of the CPU kernels.
//
// They accept C-contiguous arrays of the exact type and convert nothing; sizes are checked against each other, because
// a wrong one would write outside an array. The readable messages are made by the Python wrappers, which check first.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_kernels.h"

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Words32 = py::array_t<std::uint32_t, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;

void require(bool condition, const char* kernel, const char* what) {
  if (!condition) throw std::invalid_argument(std::string(kernel) + ": " + what);
}

struct Projection {
  std::int64_t n_slices;
  tpdm::Lattice lattice;
  std::vector<tpdm::View> views;
};

Projection projection_of(const char* kernel, const Floats& images, const Floats& sinogram, const Doubles& cos_sin,
                         std::int64_t before) {
  require(images.ndim() == 3 && images.shape(1) == images.shape(2), kernel, "images must be (n_slices, n, n)");
  require(cos_sin.ndim() == 2 && cos_sin.shape(1) == 2, kernel, "cos_sin must be (n_views, 2)");
  require(sinogram.ndim() == 3 && sinogram.shape(0) == images.shape(0) && sinogram.shape(1) == cos_sin.shape(0), kernel,
          "sinogram must be (n_slices, n_views, n_bins)");
  require(sinogram.shape(2) >= 2 && sinogram.shape(2) <= (1 << 19), kernel, "n_bins must lie in 2 ... 524288");
  Projection p{images.shape(0), {images.shape(1), sinogram.shape(2), before}, {}};
  for (py::ssize_t v = 0; v < cos_sin.shape(0); ++v) p.views.push_back({cos_sin.at(v, 0), cos_sin.at(v, 1)});
  return p;
}

void radon_forward(const Floats& images, const Doubles& cos_sin, std::int64_t before, Floats& out, int n_threads) {
  const Projection p = projection_of("radon_forward", images, out, cos_sin, before);
  const float* from = images.data();
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  tpdm::radon_forward(from, to, p.n_slices, p.lattice, p.views.data(), static_cast<std::int64_t>(p.views.size()),
                      n_threads);
}

void radon_adjoint(const Floats& sinogram, const Doubles& cos_sin, std::int64_t before, Floats& out, int n_threads) {
  const Projection p = projection_of("radon_adjoint", out, sinogram, cos_sin, before);
  const float* from = sinogram.data();
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  tpdm::radon_adjoint(from, to, p.n_slices, p.lattice, p.views.data(), static_cast<std::int64_t>(p.views.size()),
                      n_threads);
}

void radon_backproject(const Floats& filtered, const Doubles& cos_sin, std::int64_t before, double scale, Floats& out,
                       int n_threads) {
  const Projection p = projection_of("radon_backproject", out, filtered, cos_sin, before);
  const float* from = filtered.data();
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  tpdm::radon_backproject(from, to, p.n_slices, p.lattice, p.views.data(), static_cast<std::int64_t>(p.views.size()),
                          scale, n_threads);
}

void philox_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, Floats& out,
                   int n_threads) {
  float* to = out.mutable_data();
  const std::int64_t count = out.size();
  const py::gil_scoped_release release;
  tpdm::philox_normal(seed, step, phase, start, to, count, n_threads);
}

void philox_bits(const Words32& counters, std::uint32_t key0, std::uint32_t key1, Words32& out, int n_threads) {
  require(counters.ndim() == 2 && counters.shape(1) == 4, "philox_bits", "counters must be (n, 4)");
  require(out.ndim() == 2 && out.shape(0) == counters.shape(0) && out.shape(1) == 4, "philox_bits",
          "out must have the shape of counters");
  const std::uint32_t* from = counters.data();
  std::uint32_t* to = out.mutable_data();
  const std::int64_t count = counters.shape(0);
  const py::gil_scoped_release release;
  tpdm::philox_bits(from, key0, key1, to, count, n_threads);
}

void fused_update(const Floats& x, const Floats& score, const std::optional<Floats>& noise, float a, float b,
                  Floats& out, int n_threads) {
  require(score.size() == x.size() && out.size() == x.size() && (!noise || noise->size() == x.size()), "fused_update",
          "all arrays must have the size of x");
  const float* noise_data = noise ? noise->data() : nullptr;
  float* to = out.mutable_data();
  const std::int64_t count = x.size();
  const py::gil_scoped_release release;
  tpdm::fused_update(x.data(), score.data(), noise_data, a, b, to, count, n_threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "CPU kernels; called through the checked wrappers of the package.";
  module.def("radon_forward", &radon_forward, py::arg("images").noconvert(), py::arg("cos_sin").noconvert(),
             py::arg("before"), py::arg("out").noconvert(), py::arg("n_threads"));
  module.def("radon_adjoint", &radon_adjoint, py::arg("sinogram").noconvert(), py::arg("cos_sin").noconvert(),
             py::arg("before"), py::arg("out").noconvert(), py::arg("n_threads"));
  module.def("radon_backproject", &radon_backproject, py::arg("filtered").noconvert(), py::arg("cos_sin").noconvert(),
             py::arg("before"), py::arg("scale"), py::arg("out").noconvert(), py::arg("n_threads"));
  module.def("philox_normal", &philox_normal, py::arg("seed"), py::arg("step"), py::arg("phase"), py::arg("start"),
             py::arg("out").noconvert(), py::arg("n_threads"));
  module.def("philox_bits", &philox_bits, py::arg("counters").noconvert(), py::arg("key0"), py::arg("key1"),
             py::arg("out").noconvert(), py::arg("n_threads"));
  module.def("fused_update", &fused_update, py::arg("x").noconvert(), py::arg("score").noconvert(),
             py::arg("noise").noconvert().none(true), py::arg("a"), py::arg("b"), py::arg("out").noconvert(),
             py::arg("n_threads"));
}
