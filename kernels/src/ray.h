// Where one ray of a parallel projection samples an image, and with which bilinear weights.
//
// Forward and adjoint projection take their weights from the same function with the same arguments, so one is the exact
// transpose of the other, rounding of the weights included.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace tpdm {

// One view of the geometry. The n x n image lies in an m x m lattice, `before` pixels from its first row and column.
struct View {
  double cosine, sine;
};

struct Lattice {
  std::int64_t n;       // rows and columns of the image
  std::int64_t m;       // detector bins, and samples on a ray
  std::int64_t before;  // lattice rows above the image, and columns left of it
};

// Sample i of the ray lies at row + i * row_step, column + i * column_step, in image pixels.
struct Ray {
  double row, column, row_step, column_step;
};

TPDM_HD Ray ray_of(const Lattice& lattice, const View& view, std::int64_t bin) {
  const double centre = 0.5 * static_cast<double>(lattice.m - 1);
  const double s = static_cast<double>(bin) - centre;
  const double origin = centre - static_cast<double>(lattice.before);
  return Ray{origin - s * view.sine - centre * view.cosine, origin + s * view.cosine - centre * view.sine, view.cosine,
             view.sine};
}

// The four pixels around a sample: upper left corner and weights (upper left, upper right, lower left, lower right).
struct Sample {
  std::int64_t row, column;
  float w00, w01, w10, w11;
};

TPDM_HD Sample sample_of(const Ray& ray, std::int64_t i) {
  const double v = ray.row + static_cast<double>(i) * ray.row_step;
  const double u = ray.column + static_cast<double>(i) * ray.column_step;
  // Truncation is the floor of what is positive, and costs no library call; no lattice reaches 2^20 pixels outside.
  const double shift = 1048576.0;
  const std::int64_t row = static_cast<std::int64_t>(v + shift) - 1048576;
  const std::int64_t column = static_cast<std::int64_t>(u + shift) - 1048576;
  // In doubles and from the truncated index: at a sample that rounding moved across a pixel edge both weights stay
  // within 1e-9 of [0, 1], and bilinear interpolation is continuous there.
  const double fv = v - static_cast<double>(row);
  const double fu = u - static_cast<double>(column);
  return Sample{row,
                column,
                static_cast<float>((1.0 - fv) * (1.0 - fu)),
                static_cast<float>((1.0 - fv) * fu),
                static_cast<float>(fv * (1.0 - fu)),
                static_cast<float>(fv * fu)};
}

// Narrow [first, last) to the samples whose coordinate lies strictly between low and high, and up to one more on each
// side: the caller checks every sample, this only spares it the hopeless ones.
TPDM_HD void clip_samples(double start, double step, double low, double high, std::int64_t& first, std::int64_t& last) {
  if (step > -1e-9 && step < 1e-9) {
    if (start < low - 1.0 || start > high + 1.0) last = first;
    return;
  }
  const double a = (low - start) / step;
  const double b = (high - start) / step;
  const double enter = (a < b ? a : b) - 1.0;
  const double leave = (a < b ? b : a) + 2.0;
  if (enter >= static_cast<double>(last) || leave <= static_cast<double>(first)) {
    last = first;
    return;
  }
  if (enter > static_cast<double>(first)) first = static_cast<std::int64_t>(enter);
  if (leave < static_cast<double>(last)) last = static_cast<std::int64_t>(leave);
}

}  // namespace tpdm
