// Where rays sample an image, and with which bilinear weights.
//
// A ray is a row of equidistant samples, one pixel apart, each interpolated bilinearly between four pixels. Positions
// are fixed-point integers: so every compiler and every processor finds the same pixels and the same weights, without a
// thought for rounding, and the weight that the forward projection gives a pixel is, bit for bit, the one by which the
// adjoint takes it back.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace tpdm {

constexpr int kFractionBits = 29;                                  // of a position
constexpr int kWeightBits = 24;                                    // of a weight: all that a float holds
constexpr int kDropped = kFractionBits - kWeightBits;
constexpr std::int64_t kPixel = std::int64_t{1} << kFractionBits;  // one pixel
constexpr std::int32_t kOne = std::int32_t{1} << kWeightBits;      // weight 1
constexpr float kWeightUnit = 1.0f / static_cast<float>(kOne);

// The rays of all views and bins, in arrays of n_views * n_bins. Sample i of a ray lies at origin + i * step; steps
// have unit length. Of the origins there is also the low word, which places a sample within eight pixels: enough near a
// pixel that is known, and twice as fast.
struct Rays {
  const std::int64_t* rows;
  const std::int64_t* columns;
  const std::uint32_t* row_lows;
  const std::uint32_t* column_lows;
  const std::int32_t* row_steps;
  const std::int32_t* column_steps;
};

struct Ray {
  std::int64_t row, column;
  std::int32_t row_step, column_step;
};

TPDM_HD Ray ray_at(const Rays& rays, std::int64_t index) {
  return Ray{rays.rows[index], rays.columns[index], rays.row_steps[index], rays.column_steps[index]};
}

// The scan that the rays belong to. Lengths are in pixels, positions relative to the centre of rotation.
//
// A detector axis points along (-sin, cos) in (row, column), the rays of a parallel beam along (cos, sin). A fan's
// source lies at -source_distance * (cos, sin).
struct Scan {
  std::int64_t n_rows, n_columns, n_views, n_bins, n_samples;
  double centre_row, centre_column;  // of rotation
  double per_source;                 // 1 / source distance; 0 for a parallel beam
  double bins_per_pixel;             // bins per pixel of length at the centre of rotation
  double bins_per_radian;            // curved detector: bins per radian of the fan; 0 for a flat one
  double middle_bin;                 // the bin, often a fraction, that sees the centre of rotation

  // The sample, often a half, that is nearest to the centre of rotation.
  TPDM_HD float middle_sample() const { return 0.5f * static_cast<float>(n_samples - 1); }
};

struct View {
  double cosine, sine;
};

// The same in single precision, good enough to find the bins near a pixel, and half the width in bins of the shadow that
// the open square of two by two pixels casts in a parallel beam.
struct Shadow {
  float cosine, sine, reach;
};

// The pixels around a sample: upper left corner and the weights of the rows and columns below and right of it.
struct Sample {
  std::int32_t row, column;
  float down, right;
};

// No branch and no float that is not exact: loops over samples become vector code.
TPDM_HD Sample sample_at(const Ray& ray, std::int32_t i) {
  const std::int64_t row = ray.row + static_cast<std::int64_t>(i) * ray.row_step;
  const std::int64_t column = ray.column + static_cast<std::int64_t>(i) * ray.column_step;
  const std::int32_t down = static_cast<std::int32_t>(row >> kDropped) & (kOne - 1);
  const std::int32_t right = static_cast<std::int32_t>(column >> kDropped) & (kOne - 1);
  return Sample{static_cast<std::int32_t>(row >> kFractionBits), static_cast<std::int32_t>(column >> kFractionBits),
                static_cast<float>(down) * kWeightUnit, static_cast<float>(right) * kWeightUnit};
}

struct Range {
  std::int32_t first, last;  // last excluded
};

TPDM_HD float lesser(float a, float b) { return a < b ? a : b; }
TPDM_HD float greater(float a, float b) { return a < b ? b : a; }

TPDM_HD std::int64_t ceil_div(std::int64_t a, std::int64_t positive) {
  return a / positive + (a % positive > 0 ? 1 : 0);
}

// Narrow a range of samples to those with -1 <= position < size (in pixels), the only ones that touch a pixel.
TPDM_HD void clip(std::int64_t origin, std::int32_t step, std::int64_t size, Range& range) {
  const std::int64_t low = -kPixel - origin;
  const std::int64_t high = size * kPixel - origin;  // low <= i * step < high
  if (step == 0) {
    if (low > 0 || high <= 0) range.last = range.first;
    return;
  }
  const std::int64_t pace = step > 0 ? step : -static_cast<std::int64_t>(step);
  const std::int64_t enter = step > 0 ? ceil_div(low, pace) : ceil_div(1 - high, pace);
  const std::int64_t leave = step > 0 ? ceil_div(high, pace) : ceil_div(1 - low, pace);
  if (enter > range.first) range.first = static_cast<std::int32_t>(enter < range.last ? enter : range.last);
  if (leave < range.last) range.last = static_cast<std::int32_t>(leave > range.first ? leave : range.first);
}

TPDM_HD Range samples_inside(const Ray& ray, const Scan& scan) {
  Range range{0, static_cast<std::int32_t>(scan.n_samples)};
  clip(ray.row, ray.row_step, scan.n_rows, range);
  clip(ray.column, ray.column_step, scan.n_columns, range);
  return range;
}

// 1 - |distance| within a pixel, else 0: the weight of a pixel for a sample at this distance, known up to a multiple of
// eight pixels and less than seven pixels long.
TPDM_HD float hat(std::uint32_t distance) {
  const std::int32_t signed_distance = static_cast<std::int32_t>(distance) >> kDropped;
  const std::int32_t magnitude = signed_distance < 0 ? -signed_distance : signed_distance;
  const std::int32_t weight = magnitude < kOne ? kOne - magnitude : 0;
  return static_cast<float>(weight) * kWeightUnit;
}

// By how much pixel (row, column) enters the sum along a ray that passes near it: the weights of all of the ray's
// samples around the pixel.
//
// A sample matters if it lies less than a pixel away in row and column, so on at most 2 sqrt(2) pixels of the ray, and
// samples are a pixel apart: at most three do. The first is found in float, a hundredth of a pixel early at worst.
TPDM_HD float pixel_weight(const Rays& rays, std::int32_t index, const Scan& scan, std::int32_t row,
                           std::int32_t column) {
  constexpr float unit = 1.0f / static_cast<float>(kPixel);
  const std::int32_t row_step = rays.row_steps[index], column_step = rays.column_steps[index];
  const float r = static_cast<float>(row) - static_cast<float>(scan.centre_row);
  const float c = static_cast<float>(column) - static_cast<float>(scan.centre_column);
  const float along = r * (static_cast<float>(row_step) * unit) + c * (static_cast<float>(column_step) * unit);
  // Rounded up by truncation of what is shifted into the positive; no ray has 2^16 samples before its middle.
  const std::int32_t first = static_cast<std::int32_t>(scan.middle_sample() + along - 1.4243f + 65537.0f) - 65536;
  const std::uint32_t from_row = rays.row_lows[index] - (static_cast<std::uint32_t>(row) << kFractionBits);
  const std::uint32_t from_column = rays.column_lows[index] - (static_cast<std::uint32_t>(column) << kFractionBits);
  float sum = 0.0f;
  for (std::int32_t k = 0; k < 3; ++k) {
    const std::int32_t i = first + k;
    const float weight =
        hat(from_row + static_cast<std::uint32_t>(i) * static_cast<std::uint32_t>(row_step)) *
        hat(from_column + static_cast<std::uint32_t>(i) * static_cast<std::uint32_t>(column_step));
    sum += i >= 0 && i < static_cast<std::int32_t>(scan.n_samples) ? weight : 0.0f;
  }
  return sum;
}

// The bin, with its fraction, on which a point casts its shadow; `row` and `column` from the centre of rotation.
template <class T>
TPDM_HD T bin_of(const Scan& scan, T cosine, T sine, T row, T column) {
  const T middle = static_cast<T>(scan.middle_bin), scale = static_cast<T>(scan.bins_per_pixel);
  const T per_source = static_cast<T>(scan.per_source);
  const T across = column * cosine - row * sine;
  if (scan.per_source == 0.0) return middle + across * scale;
  const T slope = across / (1 + (row * cosine + column * sine) * per_source);
  if (scan.bins_per_radian == 0.0) return middle + slope * scale;
  return middle + std::atan(slope * per_source) * static_cast<T>(scan.bins_per_radian);
}

// What filtered data are weighted with at a point: 1 for a parallel beam, for a fan the square of how much nearer than
// the centre of rotation the source is.
TPDM_HD double nearness(const Scan& scan, const View& view, double row, double column) {
  if (scan.per_source == 0.0) return 1.0;
  const double depth = 1.0 + (row * view.cosine + column * view.sine) * scan.per_source;
  if (scan.bins_per_radian == 0.0) return 1.0 / (depth * depth);
  const double across = (column * view.cosine - row * view.sine) * scan.per_source;
  return 1.0 / (depth * depth + across * across);
}

// The bins that touch an open interval of the detector, widened by what float may have got wrong.
TPDM_HD Range bins_between(const Scan& scan, float low, float high) {
  const float end = static_cast<float>(scan.n_bins);
  low = lesser(greater(low - 0.03125f, 0.0f), end);
  high = lesser(greater(high + 1.03125f, 0.0f), end);
  // ceil(low) … floor(high): from zero up, truncation is the floor.
  const std::int32_t truncated = static_cast<std::int32_t>(low);
  return Range{truncated + (static_cast<float>(truncated) < low ? 1 : 0), static_cast<std::int32_t>(high)};
}

// Bins whose rays may pass less than a pixel from a pixel in row and column; `row` and `column` from the centre of
// rotation. Straight lines from a source outside the image keep the order of points: the corners of that square bound
// it. In a parallel beam its shadow has the same width everywhere.
TPDM_HD Range bins_near_parallel(const Scan& scan, const Shadow& view, float row, float column) {
  const float middle = bin_of(scan, view.cosine, view.sine, row, column);
  return bins_between(scan, middle - view.reach, middle + view.reach);
}

TPDM_HD Range bins_near_fan(const Scan& scan, const Shadow& view, float row, float column) {
  const float a = bin_of(scan, view.cosine, view.sine, row - 1, column - 1);
  const float b = bin_of(scan, view.cosine, view.sine, row - 1, column + 1);
  const float c = bin_of(scan, view.cosine, view.sine, row + 1, column - 1);
  const float d = bin_of(scan, view.cosine, view.sine, row + 1, column + 1);
  return bins_between(scan, lesser(lesser(a, b), lesser(c, d)), greater(greater(a, b), greater(c, d)));
}

TPDM_HD Range bins_near(const Scan& scan, const Shadow& view, std::int32_t row, std::int32_t column) {
  const float r = static_cast<float>(row) - static_cast<float>(scan.centre_row);
  const float c = static_cast<float>(column) - static_cast<float>(scan.centre_column);
  return scan.per_source == 0.0 ? bins_near_parallel(scan, view, r, c) : bins_near_fan(scan, view, r, c);
}

}  // namespace tpdm
