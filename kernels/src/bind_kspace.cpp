// Bindings of the residuals in k-space and the sums over coils.
#include "array.h"
#include "bind.h"
#include "kernels.h"

namespace tpdm {
namespace {

// Arrays of complex64 have a last axis of 2.
using Shape = std::vector<std::int64_t>;

Complex* complex_of(float* data) { return reinterpret_cast<Complex*>(data); }
const Complex* complex_of(const float* data) { return reinterpret_cast<const Complex*>(data); }

// Where the norms go: scaled, then plain, one a slice each, then scratch. One array, because each costs a short call
// more than the sums do.
struct Norms {
  double *scaled, *plain, *scratch;
};

Norms norms_of(const char* name, const Spectra& spectra, py::object norms) {
  const Array<double> array = array_of<double>(name, "norms", norms);
  require(array.size() >= 2 * spectra.n_slices + kspace_scratch(spectra), name, "norms is too small");
  return Norms{array.data, array.data + spectra.n_slices, array.data + 2 * spectra.n_slices};
}

void bound_residual(py::object spectrum, py::object measured, py::object noise, py::object weight, float scale,
                    py::object norms, std::int64_t context) {
  const char* name = "kspace_residual";
  const auto f = array_of<float>(name, "spectrum", spectrum);
  const auto y = array_of<const float>(name, "measured", measured);
  const auto e = array_of<const float>(name, "noise", noise, true);
  const auto w = array_of<const float>(name, "weight", weight);
  require(f.rank() == 5 && f.shape[4] == 2, name, "spectrum must be (n_slices, n_copies, n_rows, n_columns)");
  const Spectra spectra{f.shape[0], f.shape[1], f.shape[2], f.shape[3], f.shape[3]};
  require(y.shape == f.shape && (e.data == nullptr || e.shape == f.shape), name, "measured must be as the spectrum");
  require(w.shape == Shape{spectra.n_rows, spectra.n_columns}, name, "weight must be (n_rows, n_columns)");
  const Norms to = norms_of(name, spectra, norms);
  const Samples samples{complex_of(f.data), complex_of(y.data), complex_of(e.data), w.data, 0, scale};
  const py::gil_scoped_release release;
  kspace_residual(samples, spectra, to.scratch, to.scaled, to.plain, context_of(context));
}

void bound_residual_half(py::object spectrum, std::int64_t n_full, py::object measured, py::object noise,
                         py::object weight, float scale, py::object norms, std::int64_t context) {
  const char* name = "kspace_residual_half";
  const auto f = array_of<float>(name, "spectrum", spectrum);
  const auto y = array_of<const float>(name, "measured", measured);
  const auto e = array_of<const float>(name, "noise", noise, true);
  const auto w = array_of<const float>(name, "weight", weight);
  require(f.rank() == 4 && f.shape[3] == 2, name, "spectrum must be (n_slices, n_rows, n_columns)");
  const Spectra spectra{f.shape[0], 1, f.shape[1], f.shape[2], n_full};
  require(n_full >= 1 && spectra.n_columns == n_full / 2 + 1, name, "spectrum must have n_full / 2 + 1 columns");
  require(y.shape == Shape{spectra.n_slices, 2, spectra.n_rows, spectra.n_columns, 2} &&
              (e.data == nullptr || e.shape == y.shape),
          name, "measured must be (n_slices, 2, n_rows, n_columns)");
  require(w.shape == Shape{2, spectra.n_rows, spectra.n_columns}, name, "weight must be (2, n_rows, n_columns)");
  const Norms to = norms_of(name, spectra, norms);
  const Samples samples{complex_of(f.data), complex_of(y.data),   complex_of(e.data),
                        w.data,             spectra.n_samples(), scale};
  const py::gil_scoped_release release;
  kspace_residual_half(samples, spectra, to.scratch, to.scaled, to.plain, context_of(context));
}

// float64 values of `norms`.
std::int64_t bound_norms(std::int64_t n_slices, std::int64_t n_copies, std::int64_t n_rows, std::int64_t n_columns) {
  return 2 * n_slices + kspace_scratch(Spectra{n_slices, n_copies, n_rows, n_columns, n_columns});
}

Coils coils_of(const char* name, const Shape& images, const Shape& maps, const Shape& coils) {
  require(coils.size() == 5 && coils[4] == 2, name, "coils must be (n_slices, n_coils, n_rows, n_columns)");
  require(images == Shape{coils[0], coils[2], coils[3]} || images == Shape{coils[0], coils[2], coils[3], 2}, name,
          "images must be (n_slices, n_rows, n_columns)");
  const bool shared = maps.size() == 4;
  require(maps == (shared ? Shape(coils.begin() + 1, coils.end()) : coils), name,
          "maps must be (n_coils, n_rows, n_columns), for every slice if they differ");
  return Coils{coils[0], coils[1], coils[2] * coils[3], shared};
}

void bound_expand(py::object images, py::object maps, py::object out, std::int64_t context) {
  const char* name = "coil_expand";
  const auto from = array_of<const float>(name, "images", images);
  const auto map = array_of<const float>(name, "maps", maps);
  const auto to = array_of<float>(name, "out", out);
  const Coils sizes = coils_of(name, from.shape, map.shape, to.shape);
  const py::gil_scoped_release release;
  if (from.rank() == 3) {
    coil_expand(from.data, complex_of(map.data), complex_of(to.data), sizes, context_of(context));
  } else {
    coil_expand(complex_of(from.data), complex_of(map.data), complex_of(to.data), sizes, context_of(context));
  }
}

void bound_combine(py::object coils, py::object maps, py::object out, std::int64_t context) {
  const char* name = "coil_combine";
  const auto from = array_of<const float>(name, "coils", coils);
  const auto map = array_of<const float>(name, "maps", maps);
  const auto to = array_of<float>(name, "out", out);
  const Coils sizes = coils_of(name, to.shape, map.shape, from.shape);
  const py::gil_scoped_release release;
  if (to.rank() == 3) {
    coil_combine(complex_of(from.data), complex_of(map.data), to.data, sizes, context_of(context));
  } else {
    coil_combine(complex_of(from.data), complex_of(map.data), complex_of(to.data), sizes, context_of(context));
  }
}

}  // namespace

void bind_kspace(py::module_& module) {
  module.def("kspace_norms", &bound_norms, py::arg("n_slices"), py::arg("n_copies"), py::arg("n_rows"),
             py::arg("n_columns"));
  module.def("kspace_residual", &bound_residual, py::arg("spectrum"), py::arg("measured"), py::arg("noise").none(true),
             py::arg("weight"), py::arg("scale"), py::arg("norms"), py::arg("context"));
  module.def("kspace_residual_half", &bound_residual_half, py::arg("spectrum"), py::arg("n_full"), py::arg("measured"),
             py::arg("noise").none(true), py::arg("weight"), py::arg("scale"), py::arg("norms"), py::arg("context"));
  module.def("coil_expand", &bound_expand, py::arg("images"), py::arg("maps"), py::arg("out"), py::arg("context"));
  module.def("coil_combine", &bound_combine, py::arg("coils"), py::arg("maps"), py::arg("out"), py::arg("context"));
}

}  // namespace tpdm
