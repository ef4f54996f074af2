// Arrays handed over by Python, read through the array interface: no copy, no conversion.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace tpdm {

namespace py = pybind11;

// NumPy's and CuPy's names for the same dictionary.
#if defined(TPDM_CUDA) && !defined(TPDM_EMULATED)
constexpr const char* kInterface = "__cuda_array_interface__";
#else
constexpr const char* kInterface = "__array_interface__";
#endif

template <class T>
const char* typestr();
template <>
inline const char* typestr<float>() { return "<f4"; }
template <>
inline const char* typestr<double>() { return "<f8"; }
template <>
inline const char* typestr<std::uint32_t>() { return "<u4"; }
template <>
inline const char* typestr<std::int32_t>() { return "<i4"; }
template <>
inline const char* typestr<std::int64_t>() { return "<i8"; }

inline void require(bool condition, const char* kernel, const std::string& what) {
  if (!condition) throw std::invalid_argument(std::string(kernel) + ": " + what);
}

// A C-contiguous array of T; const T for one that is only read. Complex numbers count as two T in a last axis of 2.
template <class T>
struct Array {
  T* data = nullptr;
  std::vector<std::int64_t> shape;

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t n : shape) product *= n;
    return product;
  }
  std::size_t rank() const { return shape.size(); }
};

// Sizes are checked against each other by the bindings, because a wrong one would write outside an array; the readable
// messages come from the Python wrappers, which check first. None gives a null array if `optional`.
template <class T>
Array<T> array_of(const char* kernel, const char* name, py::handle object, bool optional = false) {
  using Plain = std::remove_const_t<T>;
  Array<T> array;
  if (optional && object.is_none()) return array;
  const std::string prefix = std::string(name) + ": ";
  const py::object found = py::getattr(object, kInterface, py::none());
  require(!found.is_none(), kernel, prefix + "not an array of this device");
  const py::dict interface = found;
  const std::string type = interface["typestr"].template cast<std::string>();
  const bool complex = type == "<c8" && std::is_same_v<Plain, float>;
  require(complex || type == typestr<Plain>(), kernel, prefix + "wrong type " + type);
  require(!interface.contains("strides") || interface["strides"].is_none(), kernel, prefix + "not C-contiguous");
  const py::tuple data = interface["data"];
  require(std::is_const_v<T> || !data[1].template cast<bool>(), kernel, prefix + "read-only");
  array.data = reinterpret_cast<T*>(data[0].template cast<std::uintptr_t>());
  for (const py::handle n : py::tuple(interface["shape"])) array.shape.push_back(n.template cast<std::int64_t>());
  if (complex) array.shape.push_back(2);
  return array;
}

}  // namespace tpdm
