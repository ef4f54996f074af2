// Bindings of the projections.
#include <pybind11/stl.h>

#include <array>

#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

// n_samples, centre_row, centre_column, per_source, bins_per_pixel, bins_per_radian, middle_bin
using Numbers = std::array<double, 7>;

// The geometry as Python hands it over: origins int64, their low words uint32 and steps int32 (2, n_views, n_bins),
// cos_sin float64 (n_views, 2), shadows float32 (n_views, 3), numbers.
struct Geometry {
  Scan scan;
  Rays rays;
  const View* views;
  const Shadow* shadows;
};

// `images` (n_slices, n_rows, n_columns) and `sinogram` (n_slices, n_views, n_bins) are shapes.
Geometry geometry_of(const char* kernel, const std::vector<std::int64_t>& images,
                     const std::vector<std::int64_t>& sinogram, const py::tuple& tables) {
  const auto origins = array_of<const std::int64_t>(kernel, "origins", tables[0]);
  const auto lows = array_of<const std::uint32_t>(kernel, "lows", tables[1]);
  const auto steps = array_of<const std::int32_t>(kernel, "steps", tables[2]);
  const auto cos_sin = array_of<const double>(kernel, "cos_sin", tables[3]);
  const auto shadows = array_of<const float>(kernel, "shadows", tables[4]);
  const Numbers numbers = tables[5].cast<Numbers>();
  require(images.size() == 3 && sinogram.size() == 3 && images[0] == sinogram[0], kernel,
          "images and sinogram must be stacks of the same number of slices");
  const std::vector<std::int64_t> rays{2, sinogram[1], sinogram[2]};
  require(origins.shape == rays && lows.shape == rays && steps.shape == rays, kernel,
          "origins, lows and steps must be (2, n_views, n_bins)");
  require(cos_sin.shape == std::vector<std::int64_t>({sinogram[1], 2}), kernel, "cos_sin must be (n_views, 2)");
  require(shadows.shape == std::vector<std::int64_t>({sinogram[1], 3}), kernel, "shadows must be (n_views, 3)");
  // Offsets within a padded image are 32-bit integers.
  require(images[1] <= 32768 && images[2] <= 32768 && sinogram[2] <= (1 << 20), kernel, "image or detector too large");
  const std::int64_t n_rays = sinogram[1] * sinogram[2];
  require(n_rays <= 0x7fffffff, kernel, "more than 2^31 - 1 rays");
  const Scan scan{images[1],  images[2],  sinogram[1], sinogram[2], static_cast<std::int64_t>(numbers[0]),
                  numbers[1], numbers[2], numbers[3],  numbers[4],  numbers[5],
                  numbers[6]};
  require(scan.n_samples >= 0 && scan.n_samples <= (1 << 17), kernel, "n_samples must lie in 0 ... 131072");
  return Geometry{scan,
                  Rays{origins.data, origins.data + n_rays, lows.data, lows.data + n_rays, steps.data, steps.data + n_rays},
                  reinterpret_cast<const View*>(cos_sin.data), reinterpret_cast<const Shadow*>(shadows.data)};
}

void bound_forward(py::object images, py::tuple tables, py::object scratch, py::object out, std::int64_t context) {
  const char* name = "radon_forward";
  const auto from = array_of<const float>(name, "images", images);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, from.shape, to.shape, tables);
  require(memory.size() >= radon_forward_scratch(from.shape[0], geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  radon_forward(from.data, geometry.rays, memory.data, to.data, from.shape[0], geometry.scan, context_of(context));
}

void bound_adjoint(py::object sinogram, py::tuple tables, py::object scratch, py::object out, std::int64_t context) {
  const char* name = "radon_adjoint";
  const auto from = array_of<const float>(name, "sinogram", sinogram);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, to.shape, from.shape, tables);
  require(memory.size() >= radon_adjoint_scratch(from.shape[0], geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  radon_adjoint(from.data, geometry.rays, geometry.shadows, memory.data, to.data, from.shape[0], geometry.scan,
                context_of(context));
}

void bound_backproject(py::object filtered, py::tuple tables, double scale, py::object scratch, py::object out,
                       std::int64_t context) {
  const char* name = "radon_backproject";
  const auto from = array_of<const float>(name, "filtered", filtered);
  const auto to = array_of<float>(name, "out", out);
  const auto memory = array_of<float>(name, "scratch", scratch);
  const Geometry geometry = geometry_of(name, to.shape, from.shape, tables);
  require(memory.size() >= radon_adjoint_scratch(from.shape[0], geometry.scan), name, "scratch is too small");
  const py::gil_scoped_release release;
  radon_backproject(from.data, geometry.views, scale, memory.data, to.data, from.shape[0], geometry.scan,
                    context_of(context));
}

Scan sizes(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_views, std::int64_t n_bins) {
  return Scan{n_rows, n_columns, n_views, n_bins, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
}

std::int64_t bound_forward_scratch(std::int64_t n_slices, std::int64_t n_rows, std::int64_t n_columns) {
  return radon_forward_scratch(n_slices, sizes(n_rows, n_columns, 0, 0));
}

std::int64_t bound_adjoint_scratch(std::int64_t n_slices, std::int64_t n_views, std::int64_t n_bins) {
  return radon_adjoint_scratch(n_slices, sizes(0, 0, n_views, n_bins));
}

}  // namespace

void bind_radon(py::module_& module) {
  module.def("radon_forward_scratch", &bound_forward_scratch, py::arg("n_slices"), py::arg("n_rows"),
             py::arg("n_columns"));
  module.def("radon_adjoint_scratch", &bound_adjoint_scratch, py::arg("n_slices"), py::arg("n_views"),
             py::arg("n_bins"));
  module.def("radon_forward", &bound_forward, py::arg("images"), py::arg("tables"), py::arg("scratch"), py::arg("out"),
             py::arg("context"));
  module.def("radon_adjoint", &bound_adjoint, py::arg("sinogram"), py::arg("tables"), py::arg("scratch"),
             py::arg("out"), py::arg("context"));
  module.def("radon_backproject", &bound_backproject, py::arg("filtered"), py::arg("tables"), py::arg("scale"),
             py::arg("scratch"), py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
