// Bindings of the filters of lines.
#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

void bound_filter(py::object from, py::object weights, py::object firsts, int axis, py::object to,
                  std::int64_t context) {
  const char* name = "filter_lines";
  const auto x = array_of<const float>(name, "x", from);
  const auto w = array_of<const float>(name, "weights", weights);
  const auto f = array_of<const std::int64_t>(name, "firsts", firsts);
  const auto y = array_of<float>(name, "out", to);
  require(axis >= 0 && axis <= 2, name, "axis must be 0, 1 or 2");
  require(x.rank() == 3 && y.rank() == 3, name, "x and out must be volumes");
  std::int64_t n_outer = 1, n_inner = 1;
  for (int i = 0; i < 3; ++i) {
    require(i == axis || x.shape[i] == y.shape[i], name, "x and out must be alike but for the axis");
    if (i < axis) n_outer *= x.shape[i];
    if (i > axis) n_inner *= x.shape[i];
  }
  require(w.rank() == 2 && f.rank() == 1 && w.shape[0] == n_outer * n_inner && f.shape[0] == w.shape[0], name,
          "weights and firsts must have one row for every line");
  const LineFilters filters{w.data, f.data, w.shape[1], x.shape[axis], y.shape[axis]};
  const py::gil_scoped_release release;
  filter_lines(x.data, filters, y.data, n_outer, n_inner, context_of(context));
}

}  // namespace

void bind_lines(py::module_& module) {
  module.def("filter_lines", &bound_filter, py::arg("x"), py::arg("weights"), py::arg("firsts"), py::arg("axis"),
             py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
