// The Python face of `network.h`: kernels._network.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "network.h"

namespace py = pybind11;

namespace tpdm {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Slices = py::array_t<float, py::array::c_style>;

std::vector<float> values_of(const Array& a) { return {a.data(), a.data() + a.size()}; }

const Layers& layers_named(const std::string& name) {
  for (const Layers* layers : usable_layers())
    if (name == layers->name) return *layers;
  throw std::invalid_argument("instructions: expected a set that this processor has, got " + name);
}

// The two stacks have the same number of slices, for which there is room: return it.
int checked(const Slices& a, const Slices& b, const Workspace& w) {
  const ImageSize size = w.size();
  for (const Slices* s : {&a, &b})
    if (s->ndim() != 3 || s->shape(0) != a.shape(0) || s->shape(0) < 1 || s->shape(0) > w.n_images() ||
        s->shape(1) != size.height || s->shape(2) != size.width)
      throw std::invalid_argument("slices: expected two stacks of up to " + std::to_string(w.n_images()) + " slices of " +
                                  std::to_string(size.height) + " x " + std::to_string(size.width) +
                                  ", the room of the workspace");
  return static_cast<int>(a.shape(0));
}

Kind kind_named(const std::string& name) {
  static const std::map<std::string, Kind> kinds = {
      {"down", Kind::down}, {"up", Kind::up},         {"fir", Kind::fir}, {"stuff", Kind::stuff},
      {"cat", Kind::cat},   {"attend", Kind::attend}, {"add", Kind::add}, {"affine", Kind::affine}};
  const auto found = kinds.find(name);
  if (found == kinds.end()) throw std::invalid_argument("layer: expected a known kind, got " + name);
  return found->second;
}

}  // namespace
}  // namespace tpdm

PYBIND11_MODULE(_network, m) {
  using namespace tpdm;
  m.doc() = "Score networks on CPU cores.";
  m.def("instructions", [] {
    std::vector<std::string> names;
    for (const Layers* layers : usable_layers()) names.emplace_back(layers->name);
    return names;
  });

  py::class_<Network, std::shared_ptr<Network>>(m, "Network")
      .def(py::init([](std::vector<int> channels, int sigma_power, const std::string& instructions, long transformed_bytes) {
             const Layers& layers = instructions.empty() ? best_layers() : layers_named(instructions);
             return std::make_shared<Network>(std::move(channels), sigma_power, layers, transformed_bytes);
           }),
           py::arg("channels"), py::arg("sigma_power"), py::arg("instructions"), py::arg("transformed_bytes"))
      .def("add_fourier", [](Network& n, const Array& weight) { n.add_fourier(values_of(weight)); })
      .def("add_dense", [](Network& n, int in, const Array& weight,
                           const Array& bias) { n.add_dense(in, values_of(weight), values_of(bias)); })
      .def("add_silu", &Network::add_silu)
      .def("add_conv",
           [](Network& n, std::vector<int> in, int out, const Array& weight, const Array& bias, int stride, int pad,
              int vector, float addend_scale) {
             if (in.empty() || in[0] < 0 || in[0] >= static_cast<int>(n.channels().size()) || out < 0 ||
                 out >= static_cast<int>(n.channels().size()))
               throw std::invalid_argument("conv: expected numbers of images");
             if (weight.ndim() != 4 || weight.shape(0) != n.channels()[out] || weight.shape(1) != n.channels()[in[0]] ||
                 weight.shape(2) != weight.shape(3))
               throw std::invalid_argument("weight: expected (out, in, k, k) as the images' channels say");
             n.add_conv(std::move(in), out, weight.data(), static_cast<int>(weight.shape(2)), values_of(bias), stride, pad,
                        vector, addend_scale);
           })
      .def("add_norm",
           [](Network& n, int in, int out, const Array& weight, const Array& bias, int groups, float eps, bool silu) {
             if (in < 0 || in >= static_cast<int>(n.channels().size()) || weight.size() != n.channels()[in] ||
                 bias.size() != weight.size())
               throw std::invalid_argument("norm: expected a weight and a bias for every channel");
             n.add_norm(in, out, weight.data(), bias.data(), groups, eps, silu);
           })
      .def("add_layer",
           [](Network& n, const std::string& kind, std::vector<int> in, int out, bool fir, int pad, float mul, float add) {
             n.add_simple(kind_named(kind), std::move(in), out, fir, pad, mul, add);
           })
      .def("finish", &Network::finish)
      .def_property_readonly("instructions", [](const Network& n) { return n.layers().name; })
      .def("workspace_bytes",
           [](std::shared_ptr<Network> network, int n_images, int height, int width, bool with_pullback) {
             return Workspace(std::move(network), n_images, ImageSize{height, width}, with_pullback, false).bytes();
           })
      .def_property_readonly("keeps_transforms", &Network::keeps_transforms);

  py::class_<Workspace>(m, "Workspace")
      .def(py::init([](std::shared_ptr<Network> network, int n_images, int height, int width, bool with_pullback) {
             return std::make_unique<Workspace>(std::move(network), n_images, ImageSize{height, width}, with_pullback);
           }),
           py::arg("network"), py::arg("n_images"), py::arg("height"), py::arg("width"), py::arg("with_pullback"))
      .def("denoise",
           [](Workspace& w, const Slices& x, float sigma, Slices x0) {
             const int n = checked(x, x0, w);
             const float* in = x.data();
             float* out = x0.mutable_data();
             py::gil_scoped_release release;
             w.denoise(in, n, sigma, out);
           },
           py::arg("x").noconvert(), py::arg("sigma"), py::arg("x0").noconvert())
      .def("pullback",
           [](Workspace& w, const Slices& cotangent, Slices pulled) {
             const int n = checked(cotangent, pulled, w);
             const float* in = cotangent.data();
             float* out = pulled.mutable_data();
             py::gil_scoped_release release;
             w.pullback(in, n, out);
           },
           py::arg("cotangent").noconvert(), py::arg("pulled").noconvert())
      .def_property_readonly("bytes", &Workspace::bytes);
}
