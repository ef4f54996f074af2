// Bindings of the projections.
#include <vector>

#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

struct Projection {
  std::int64_t n_slices;
  Lattice lattice;
  std::vector<View> views;
};

Projection projection_of(const char* kernel, const std::vector<std::int64_t>& images,
                         const std::vector<std::int64_t>& sinogram, const Array<const double>& cos_sin,
                         std::int64_t before) {
  require(images.size() == 3 && images[1] == images[2], kernel, "images must be (n_slices, n, n)");
  require(cos_sin.rank() == 2 && cos_sin.shape[1] == 2, kernel, "cos_sin must be (n_views, 2)");
  require(sinogram.size() == 3 && sinogram[0] == images[0] && sinogram[1] == cos_sin.shape[0], kernel,
          "sinogram must be (n_slices, n_views, n_bins)");
  require(sinogram[2] >= 2 && sinogram[2] <= (1 << 19), kernel, "n_bins must lie in 2 ... 524288");
  Projection p{images[0], {images[1], sinogram[2], before}, {}};
  for (std::int64_t v = 0; v < cos_sin.shape[0]; ++v) {
    p.views.push_back({cos_sin.data[2 * v], cos_sin.data[2 * v + 1]});
  }
  return p;
}

void bound_forward(py::object images, py::object cos_sin, std::int64_t before, py::object out, std::int64_t context) {
  const char* name = "radon_forward";
  const auto from = array_of<const float>(name, "images", images);
  const auto to = array_of<float>(name, "out", out);
  const Projection p =
      projection_of(name, from.shape, to.shape, array_of<const double>(name, "cos_sin", cos_sin), before);
  const py::gil_scoped_release release;
  radon_forward(from.data, to.data, p.n_slices, p.lattice, p.views.data(), static_cast<std::int64_t>(p.views.size()),
                context_of(context));
}

void bound_adjoint(py::object sinogram, py::object cos_sin, std::int64_t before, py::object out, std::int64_t context) {
  const char* name = "radon_adjoint";
  const auto from = array_of<const float>(name, "sinogram", sinogram);
  const auto to = array_of<float>(name, "out", out);
  const Projection p =
      projection_of(name, to.shape, from.shape, array_of<const double>(name, "cos_sin", cos_sin), before);
  const py::gil_scoped_release release;
  radon_adjoint(from.data, to.data, p.n_slices, p.lattice, p.views.data(), static_cast<std::int64_t>(p.views.size()),
                context_of(context));
}

void bound_backproject(py::object filtered, py::object cos_sin, std::int64_t before, double scale, py::object out,
                       std::int64_t context) {
  const char* name = "radon_backproject";
  const auto from = array_of<const float>(name, "filtered", filtered);
  const auto to = array_of<float>(name, "out", out);
  const Projection p =
      projection_of(name, to.shape, from.shape, array_of<const double>(name, "cos_sin", cos_sin), before);
  const py::gil_scoped_release release;
  radon_backproject(from.data, to.data, p.n_slices, p.lattice, p.views.data(),
                    static_cast<std::int64_t>(p.views.size()), scale, context_of(context));
}

}  // namespace

void bind_radon(py::module_& module) {
  module.def("radon_forward", &bound_forward, py::arg("images"), py::arg("cos_sin"), py::arg("before"), py::arg("out"),
             py::arg("context"));
  module.def("radon_adjoint", &bound_adjoint, py::arg("sinogram"), py::arg("cos_sin"), py::arg("before"),
             py::arg("out"), py::arg("context"));
  module.def("radon_backproject", &bound_backproject, py::arg("filtered"), py::arg("cos_sin"), py::arg("before"),
             py::arg("scale"), py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
