// Bindings of the counter-based noise.
#include "array.h"
#include "bind.h"
#include "bind_noise.h"
#include "kernels.h"

namespace tpdm {
namespace {

void bound_normal(std::uint64_t seed, std::uint32_t step, std::uint32_t phase, std::uint64_t start, py::object out,
                  std::int64_t context) {
  const Array<float> to = array_of<float>("philox_normal", "out", out);
  const py::gil_scoped_release release;
  philox_normal(seed, step, phase, start, to.data, to.size(), context_of(context));
}

void bound_slices(py::object key, py::object out, std::int64_t context) {
  const char* name = "philox_slices";
  const Array<float> to = array_of<float>(name, "out", out);
  const Stack stack = stack_of(name, to.shape);
  const Noise noise = noise_of(name, key, to.shape);
  require(noise.keyed, name, "key must be a tuple");
  const py::gil_scoped_release release;
  philox_slices(stack, noise, to.data, context_of(context));
}

void bound_bits(py::object counters, std::uint32_t key0, std::uint32_t key1, py::object out, std::int64_t context) {
  const char* name = "philox_bits";
  const Array<const std::uint32_t> from = array_of<const std::uint32_t>(name, "counters", counters);
  const Array<std::uint32_t> to = array_of<std::uint32_t>(name, "out", out);
  require(from.rank() == 2 && from.shape[1] == 4, name, "counters must be (n, 4)");
  require(to.shape == from.shape, name, "out must have the shape of counters");
  const py::gil_scoped_release release;
  philox_bits(from.data, key0, key1, to.data, from.shape[0], context_of(context));
}

}  // namespace

void bind_philox(py::module_& module) {
  module.def("philox_normal", &bound_normal, py::arg("seed"), py::arg("step"), py::arg("phase"), py::arg("start"),
             py::arg("out"), py::arg("context"));
  module.def("philox_slices", &bound_slices, py::arg("key"), py::arg("out"), py::arg("context"));
  module.def("philox_bits", &bound_bits, py::arg("counters"), py::arg("key0"), py::arg("key1"), py::arg("out"),
             py::arg("context"));
}

}  // namespace tpdm
