// Bindings of the sampler's arithmetic.
#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

void bound_update(py::object x, py::object score, py::object noise, float a, float b, py::object out,
                  std::int64_t context) {
  const char* name = "fused_update";
  const Array<const float> from = array_of<const float>(name, "x", x);
  const Array<const float> direction = array_of<const float>(name, "score", score);
  const Array<const float> normal = array_of<const float>(name, "noise", noise, true);
  const Array<float> to = array_of<float>(name, "out", out);
  require(direction.size() == from.size() && to.size() == from.size() && (!normal.data || normal.size() == from.size()),
          name, "all arrays must have the size of x");
  const py::gil_scoped_release release;
  fused_update(from.data, direction.data, normal.data, a, b, to.data, from.size(), context_of(context));
}

}  // namespace

void bind_update(py::module_& module) {
  module.def("fused_update", &bound_update, py::arg("x"), py::arg("score"), py::arg("noise").none(true), py::arg("a"),
             py::arg("b"), py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
