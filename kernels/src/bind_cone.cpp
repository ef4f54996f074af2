// Bindings of the cone-beam projections.
#include <pybind11/stl.h>

#include <array>

#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

// centre_slice, centre_row, centre_column, source_distance, detector_distance, bin_spacing, bin_offset, line_spacing,
// line_offset
using Numbers = std::array<double, 9>;

struct Geometry {
  ConeScan scan;
  const View* views;
};

// `volume` (n_slices, n_rows, n_columns) and `projections` (n_views, n_lines, n_bins) are shapes.
Geometry geometry_of(const char* kernel, const std::vector<std::int64_t>& volume,
                     const std::vector<std::int64_t>& projections, const py::tuple& tables) {
  const auto cos_sin = array_of<const double>(kernel, "cos_sin", tables[0]);
  const Numbers n = tables[1].cast<Numbers>();
  require(volume.size() == 3 && projections.size() == 3, kernel, "volume and projections must have three axes");
  require(cos_sin.shape == std::vector<std::int64_t>({projections[0], 2}), kernel, "cos_sin must be (n_views, 2)");
  // Bins and slices are numbered with 32-bit integers.
  require(volume[0] <= 32768 && projections[1] <= (1 << 20) && projections[2] <= (1 << 20), kernel,
          "volume or detector too large");
  const ConeScan scan{volume[0], volume[1], volume[2], projections[0], projections[1], projections[2], n[0], n[1],
                      n[2],      n[3],      n[4],      n[5],           n[6],           n[7],           n[8]};
  return Geometry{scan, reinterpret_cast<const View*>(cos_sin.data)};
}

void bound_forward(py::object volume, py::tuple tables, py::object scratch, py::object out, std::int64_t context) {
  const char* name = "cone_forward";
  const auto from = array_of<const float>(name, "volume", volume);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, from.shape, to.shape, tables);
  require(memory.size() >= cone_scratch(geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  cone_forward(from.data, geometry.views, memory.data, to.data, geometry.scan, context_of(context));
}

void bound_adjoint(py::object projections, py::tuple tables, py::object scratch, py::object out,
                   std::int64_t context) {
  const char* name = "cone_adjoint";
  const auto from = array_of<const float>(name, "projections", projections);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, to.shape, from.shape, tables);
  require(memory.size() >= cone_scratch(geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  cone_adjoint(from.data, geometry.views, memory.data, to.data, geometry.scan, context_of(context));
}

void bound_backproject(py::object filtered, py::tuple tables, double scale, py::object scratch, py::object out,
                       std::int64_t context) {
  const char* name = "cone_backproject";
  const auto from = array_of<const float>(name, "filtered", filtered);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, to.shape, from.shape, tables);
  require(memory.size() >= cone_scratch(geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  cone_backproject(from.data, geometry.views, scale, memory.data, to.data, geometry.scan, context_of(context));
}

}  // namespace

void bind_cone(py::module_& module) {
  module.def("cone_forward", &bound_forward, py::arg("volume"), py::arg("tables"), py::arg("scratch"), py::arg("out"),
             py::arg("context"));
  module.def("cone_adjoint", &bound_adjoint, py::arg("projections"), py::arg("tables"), py::arg("scratch"),
             py::arg("out"), py::arg("context"));
  module.def("cone_backproject", &bound_backproject, py::arg("filtered"), py::arg("tables"), py::arg("scale"),
             py::arg("scratch"), py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
