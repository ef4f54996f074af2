// Where the rays of a cone beam cross a volume, and with which weights.
//
// A source and a flat detector opposite turn about an axis along the slices. A ray is sampled where it crosses the planes
// of voxels across the axis, rows or columns, that it runs along more; there it is interpolated between four voxels, and
// every sample counts for the length of ray between two planes (Joseph 1982).
//
// Forward projection and adjoint find a crossing by the same operations in double precision, of which none may be
// contracted: so the weight that one gives a voxel is, bit for bit, the one by which the other takes it back.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "ray.h"

namespace tpdm {

// Lengths are in voxels; positions on the detector count from the point opposite the source.
struct ConeScan {
  std::int64_t n_slices, n_rows, n_columns, n_views, n_lines, n_bins;
  double centre_slice, centre_row, centre_column;  // of rotation, and the height of the source
  double source_distance, detector_distance;       // from the axis
  double bin_spacing, bin_offset, line_spacing, line_offset;
};

// A column of the detector, seen from the source: a fan of rays above each other.
struct ConeFan {
  bool along_rows;       // whether the planes are rows of voxels, or columns
  double source, start;  // where the source lies along and across
  double slope;          // steps across for one along
  double along;          // from source to detector along
  double squared;        // squared length from source to detector, at the source's height
};

TPDM_HD double bin_place(const ConeScan& scan, std::int64_t bin) {
  return (static_cast<double>(bin) - 0.5 * static_cast<double>(scan.n_bins - 1)) * scan.bin_spacing + scan.bin_offset;
}

TPDM_HD double line_place(const ConeScan& scan, std::int64_t line) {
  return (static_cast<double>(line) - 0.5 * static_cast<double>(scan.n_lines - 1)) * scan.line_spacing +
         scan.line_offset;
}

TPDM_HD ConeFan fan_at(const ConeScan& scan, const View& view, std::int64_t bin) {
  const double u = bin_place(scan, bin), reach = scan.source_distance + scan.detector_distance;
  const double row = reach * view.cosine - u * view.sine, column = reach * view.sine + u * view.cosine;
  const double source_row = scan.centre_row - scan.source_distance * view.cosine;
  const double source_column = scan.centre_column - scan.source_distance * view.sine;
  if (std::fabs(row) >= std::fabs(column)) {
    return ConeFan{true, source_row, source_column, column / row, row, row * row + column * column};
  }
  return ConeFan{false, source_column, source_row, row / column, column, row * row + column * column};
}

// Where a fan crosses plane k, across.
TPDM_HD double crossing(const ConeFan& fan, std::int64_t k) {
  return fan.start + (static_cast<double>(k) - fan.source) * fan.slope;
}

// Slices that a ray climbs for one step along.
TPDM_HD double climb(const ConeFan& fan, double v) { return v / fan.along; }

TPDM_HD double height(const ConeScan& scan, const ConeFan& fan, std::int64_t k, double climbed) {
  return scan.centre_slice + (static_cast<double>(k) - fan.source) * climbed;
}

// Length of a ray between two planes.
TPDM_HD float stride(const ConeFan& fan, double v) {
  return static_cast<float>(std::sqrt(fan.squared + v * v) / std::fabs(fan.along));
}

TPDM_HD float hat(double distance) { return static_cast<float>(1.0 - std::fabs(distance)); }

// Columns of the detector of which a ray may cross a plane less than a voxel from (row, column): see bins_near_fan.
TPDM_HD Range bins_near(const ConeScan& scan, const View& view, std::int64_t row, std::int64_t column) {
  const double reach = scan.source_distance + scan.detector_distance;
  double low = 1e300, high = -1e300;
  for (int corner = 0; corner < 4; ++corner) {
    const double r = static_cast<double>(row + (corner & 1 ? 1 : -1)) - scan.centre_row;
    const double c = static_cast<double>(column + (corner & 2 ? 1 : -1)) - scan.centre_column;
    const double depth = scan.source_distance + r * view.cosine + c * view.sine;
    const double u = (c * view.cosine - r * view.sine) * reach / depth;
    low = u < low ? u : low;
    high = u > high ? u : high;
  }
  const double middle = 0.5 * static_cast<double>(scan.n_bins - 1), end = static_cast<double>(scan.n_bins);
  // A little wider than rounding could make it.
  const double first = std::floor((low - scan.bin_offset) / scan.bin_spacing + middle - 1e-6);
  const double last = std::ceil((high - scan.bin_offset) / scan.bin_spacing + middle + 1e-6) + 1.0;
  return Range{static_cast<std::int32_t>(first < 0.0 ? 0.0 : first > end ? end : first),
               static_cast<std::int32_t>(last < 0.0 ? 0.0 : last > end ? end : last)};
}

// Where a column of voxels casts its shadow, and how: for filtered back-projection.
struct ConeShadow {
  double bin;          // with its fraction
  double first, step;  // line of slice 0, and lines from slice to slice
  double nearness;     // square of how much nearer than the axis the source is
};

TPDM_HD ConeShadow shadow_of(const ConeScan& scan, const View& view, std::int64_t row, std::int64_t column) {
  const double r = static_cast<double>(row) - scan.centre_row, c = static_cast<double>(column) - scan.centre_column;
  const double depth = scan.source_distance + r * view.cosine + c * view.sine;
  const double larger = (scan.source_distance + scan.detector_distance) / depth;
  const double u = (c * view.cosine - r * view.sine) * larger;
  const double step = larger / scan.line_spacing;
  const double middle = 0.5 * static_cast<double>(scan.n_lines - 1) - scan.line_offset / scan.line_spacing;
  const double near = scan.source_distance / depth;
  return ConeShadow{(u - scan.bin_offset) / scan.bin_spacing + 0.5 * static_cast<double>(scan.n_bins - 1),
                    middle - scan.centre_slice * step, step, near * near};
}

}  // namespace tpdm
