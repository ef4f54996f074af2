// Bindings of the sampler's arithmetic.
#include <pybind11/stl.h>

#include <vector>

#include "array.h"
#include "bind.h"
#include "bind_noise.h"
#include "kernels.h"

namespace tpdm {
namespace {

using Shape = std::vector<std::int64_t>;

std::int64_t bound_norm_parts(std::int64_t n_slices, std::int64_t n_rows, std::int64_t n_columns) {
  return norm_parts(Stack{n_slices, n_rows, n_columns});
}

void bound_norms(py::object x, py::object x0, py::object noise, py::object parts, py::object norms,
                 std::int64_t context) {
  const char* name = "score_norms";
  const Array<const float> from = array_of<const float>(name, "x", x);
  const Array<const float> clean = array_of<const float>(name, "x0", x0);
  const Stack stack = stack_of(name, from.shape);
  const Noise with = noise_of(name, noise, from.shape);
  const Array<double> scratch = array_of<double>(name, "parts", parts);
  const Array<double> to = array_of<double>(name, "norms", norms);
  require(!noise.is_none(), name, "noise may not be None");
  require(clean.shape == from.shape, name, "x0 must have the shape of x");
  require(scratch.shape == Shape{norm_parts(stack), stack.n_slices, 2}, name,
          "parts must be (norm_parts, n_slices, 2)");
  require(to.shape == Shape{stack.n_slices, 2}, name, "norms must be (n_slices, 2)");
  const py::gil_scoped_release release;
  score_norms(stack, from.data, clean.data, with, scratch.data, scratch.shape[0], to.data, context_of(context));
}

void bound_langevin(py::object norms, const Shape& bounds, double snr, double variance, py::object a, py::object b,
                    std::int64_t context) {
  const char* name = "langevin_steps";
  const Array<const double> from = array_of<const double>(name, "norms", norms);
  const Array<float> to_a = array_of<float>(name, "a", a);
  const Array<float> to_b = array_of<float>(name, "b", b);
  require(from.rank() == 2 && from.shape[1] == 2, name, "norms must be (n_slices, 2)");
  require(to_a.shape == Shape{from.shape[0]} && to_b.shape == to_a.shape, name, "a and b must be (n_slices,)");
  require(!bounds.empty() && bounds.front() == 0 && bounds.back() == from.shape[0], name,
          "bounds must go from 0 to n_slices");
  for (std::size_t g = 1; g < bounds.size(); ++g) require(bounds[g - 1] < bounds[g], name, "bounds must ascend");
  const py::gil_scoped_release release;
  langevin_steps(from.data, bounds.data(), static_cast<std::int64_t>(bounds.size()) - 1, snr, variance, to_a.data,
                 to_b.data, context_of(context));
}

void bound_update(py::object x, py::object x0, py::object noise, py::object a, py::object b, py::object pullback,
                  py::object weight, py::object out, std::int64_t context) {
  const char* name = "sampler_update";
  const Array<const float> from = array_of<const float>(name, "x", x);
  const Array<const float> clean = array_of<const float>(name, "x0", x0);
  const Stack stack = stack_of(name, from.shape);
  const Noise with = noise_of(name, noise, from.shape);
  const Array<const float> step = array_of<const float>(name, "a", a);
  const Array<const float> amplitude = array_of<const float>(name, "b", b, true);
  const Array<const float> gradient = array_of<const float>(name, "pullback", pullback, true);
  const Array<const float> length = array_of<const float>(name, "weight", weight, true);
  const Array<float> to = array_of<float>(name, "out", out);
  const Shape each{stack.n_slices};
  const bool noisy = !noise.is_none(), guided = !pullback.is_none();
  require(clean.shape == from.shape && to.shape == from.shape, name, "x0 and out must have the shape of x");
  require(step.shape == each, name, "a must be (n_slices,)");
  require(!noisy || amplitude.shape == each, name, "b must be (n_slices,)");
  require(!guided || (gradient.shape == from.shape && length.shape == each), name,
          "pullback must have the shape of x, and weight be (n_slices,)");
  const py::gil_scoped_release release;
  sampler_update(stack, from.data, clean.data, with, step.data, amplitude.data, gradient.data, length.data, to.data,
                 context_of(context));
}

}  // namespace

void bind_update(py::module_& module) {
  module.def("norm_parts", &bound_norm_parts, py::arg("n_slices"), py::arg("n_rows"), py::arg("n_columns"));
  module.def("score_norms", &bound_norms, py::arg("x"), py::arg("x0"), py::arg("noise"), py::arg("parts"),
             py::arg("norms"), py::arg("context"));
  module.def("langevin_steps", &bound_langevin, py::arg("norms"), py::arg("bounds"), py::arg("snr"),
             py::arg("variance"), py::arg("a"), py::arg("b"), py::arg("context"));
  module.def("sampler_update", &bound_update, py::arg("x"), py::arg("x0"), py::arg("noise").none(true), py::arg("a"),
             py::arg("b").none(true), py::arg("pullback").none(true), py::arg("weight").none(true), py::arg("out"),
             py::arg("context"));
}

}  // namespace tpdm
