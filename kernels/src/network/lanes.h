// 16 floats as vectors of the instruction set, and the arithmetic of layers on them.
//
// Everything in these headers has internal linkage, and no template of the standard library is used: the linker must never put
// another file's function in an AVX-512 version.
#pragma once

#include <cstring>

#include "layers.h"

namespace tpdm {
namespace {

// 16 floats in as many registers as the instruction set needs for them. A single vector type of 64 bytes would do, but compilers
// take one that no register can hold through memory.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;
typedef float Part __attribute__((vector_size(4 * kWidth)));
typedef int IntPart __attribute__((vector_size(4 * kWidth)));

struct Lanes {
  Part parts[kParts];
  float operator[](int l) const { return parts[l / kWidth][l % kWidth]; }
  void set(int l, float value) { parts[l / kWidth][l % kWidth] = value; }
};

#define TPDM_EACH_PART for (int i = 0; i < kParts; ++i)
#define TPDM_OPERATOR(op)                                   \
  inline Lanes operator op(const Lanes& a, const Lanes& b) { \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a.parts[i] op b.parts[i];   \
    return c;                                               \
  }                                                         \
  inline Lanes operator op(float a, const Lanes& b) {       \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a op b.parts[i];            \
    return c;                                               \
  }                                                         \
  inline Lanes operator op(const Lanes& a, float b) {       \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a.parts[i] op b;            \
    return c;                                               \
  }
TPDM_OPERATOR(+)
TPDM_OPERATOR(-)
TPDM_OPERATOR(*)
TPDM_OPERATOR(/)

inline void operator+=(Lanes& a, const Lanes& b) { a = a + b; }
inline void operator*=(Lanes& a, const Lanes& b) { a = a * b; }

inline Lanes larger(const Lanes& a, const Lanes& b) {
  Lanes c;
  TPDM_EACH_PART c.parts[i] = a.parts[i] > b.parts[i] ? a.parts[i] : b.parts[i];
  return c;
}

inline Lanes load(const float* p) {
  Lanes v;
  TPDM_EACH_PART std::memcpy(&v.parts[i], p + i * kWidth, sizeof(Part));
  return v;
}

inline void store(float* p, const Lanes& v) { TPDM_EACH_PART std::memcpy(p + i * kWidth, &v.parts[i], sizeof(Part)); }

inline Lanes all(float value) {
  Lanes v;
  TPDM_EACH_PART v.parts[i] = value - Part{};
  return v;
}

inline float sum_of(const Lanes& v) {
  float values[kLanes];
  store(values, v);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int l = 0; l < n; ++l) values[l] += values[l + n];
  return values[0];
}

// Add to 16 sums in float64.
inline void add_to(double* sums, const Lanes& v) {
  for (int l = 0; l < kLanes; ++l) sums[l] += v[l];
}

inline long smaller(long a, long b) { return a < b ? a : b; }
inline long larger(long a, long b) { return a < b ? b : a; }
inline long up_to_multiple(long a, long b) { return (a + b - 1) / b * b; }

inline void put(float* p, const Lanes& v, bool add) { store(p, add ? load(p) + v : v); }

inline Part exponential(Part x) {
  // 2^(x / ln 2), split at the nearest integer; the polynomial is the Taylor series to the sixth power, whose rest is below
  // one unit in the last place on ±ln 2 / 2.
  const Part low = -87.0f - Part{}, high = 88.0f - Part{}, magic = 12582912.0f - Part{};
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Part n = (x * 1.44269504088896f + magic) - magic;
  const Part r = x - n * 0.693359375f - n * -2.12194440e-4f;
  Part p = r * (1.0f / 720) + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntPart power = (__builtin_convertvector(n, IntPart) + 127) << 23;
  Part scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

inline Lanes exponential(const Lanes& x) {
  Lanes e;
  TPDM_EACH_PART e.parts[i] = exponential(x.parts[i]);
  return e;
}

inline Lanes sigmoid(const Lanes& x) { return 1.0f / (1.0f + exponential(0.0f - x)); }

}  // namespace
}  // namespace tpdm
