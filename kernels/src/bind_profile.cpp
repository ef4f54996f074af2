// Bindings of the slice profiles.
#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

void bound_sum(py::object from, py::object weights, py::object runs, int axis, py::object to, std::int64_t context) {
  const char* name = "banded_sum";
  const auto x = array_of<const float>(name, "x", from);
  const auto w = array_of<const float>(name, "weights", weights);
  const auto r = array_of<const std::int64_t>(name, "runs", runs);
  const auto y = array_of<float>(name, "out", to);
  require(axis == 1 || axis == 2, name, "axis must be 1 or 2");
  require(x.rank() == 3 && y.rank() == 3 && y.shape[0] == x.shape[0] && y.shape[3 - axis] == x.shape[3 - axis], name,
          "x and out must be (n_slices, n_rows, n_columns), alike but for the axis");
  require(w.rank() == 2 && r.rank() == 2 && r.shape[0] == w.shape[0] && r.shape[1] == 2 && y.shape[axis] == w.shape[0],
          name, "weights and runs must have one row for every entry of out along the axis");
  const Bands bands{w.data, r.data, x.shape[axis], y.shape[axis], w.shape[1]};
  const std::int64_t n_outer = axis == 1 ? x.shape[0] : x.shape[0] * x.shape[1];
  const std::int64_t n_inner = axis == 1 ? x.shape[2] : 1;
  const py::gil_scoped_release release;
  banded_sum(x.data, bands, y.data, n_outer, n_inner, context_of(context));
}

}  // namespace

void bind_profile(py::module_& module) {
  module.def("banded_sum", &bound_sum, py::arg("x"), py::arg("weights"), py::arg("runs"), py::arg("axis"),
             py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
