// Cone-beam projections and back-projections on a GPU: a thread a ray, or a thread a voxel that collects.
//
// Slices lie innermost in the packed volume, lines of the detector innermost in packed projections: neighbouring threads
// read neighbouring numbers.
#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

using std::int32_t;
using std::int64_t;

// (n, outer, inner) -> (n, inner, outer)
struct Transpose {
  const float* from;
  float* to;
  int64_t outer, inner;

  TPDM_KERNEL void operator()(int64_t i) const {
    const int64_t size = outer * inner, which = i / size, place = i % size;
    to[which * size + place] = from[which * size + place % outer * inner + place / outer];
  }
};

struct Forward {
  const float* packed;
  const View* views;
  float* projections;
  ConeScan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t line = thread % scan.n_lines, bin = thread / scan.n_lines % scan.n_bins;
    const int64_t view = thread / scan.n_lines / scan.n_bins;
    const ConeFan fan = fan_at(scan, views[view], bin);
    const int64_t n_z = scan.n_slices;
    const int64_t n_along = fan.along_rows ? scan.n_rows : scan.n_columns;
    const int64_t n_across = fan.along_rows ? scan.n_columns : scan.n_rows;
    const int64_t along = (fan.along_rows ? scan.n_columns : 1) * n_z;
    const int64_t across = (fan.along_rows ? 1 : scan.n_columns) * n_z;
    const double v = line_place(scan, line), climbed = climb(fan, v);
    float sum = 0.0f;
    for (int64_t k = 0; k < n_along; ++k) {
      const double t = crossing(fan, k), z = height(scan, fan, k, climbed);
      if (!(t > -1.0 && t < static_cast<double>(n_across) && z > -1.0 && z < static_cast<double>(n_z))) continue;
      const int64_t near = static_cast<int64_t>(t + 1.0) - 1, below = static_cast<int64_t>(z + 1.0) - 1;
      for (int64_t x = near < 0 ? 0 : near; x <= near + 1 && x < n_across; ++x) {
        const float* from = packed + k * along + x * across;
        float part = 0.0f;
        for (int64_t s = below < 0 ? 0 : below; s <= below + 1 && s < n_z; ++s) {
          part += from[s] * hat(z - static_cast<double>(s));
        }
        sum += part * hat(t - static_cast<double>(x));
      }
    }
    projections[(view * scan.n_lines + line) * scan.n_bins + bin] = sum * stride(fan, v);
  }
};

struct Adjoint {
  const float* packed;
  const View* views;
  float* volume;
  ConeScan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t slice = thread % scan.n_slices, pixel = thread / scan.n_slices;
    const int64_t row = pixel / scan.n_columns, column = pixel % scan.n_columns;
    float sum = 0.0f;
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const Range bins = bins_near(scan, views[view], row, column);
      for (int32_t bin = bins.first; bin < bins.last; ++bin) {
        const ConeFan fan = fan_at(scan, views[view], bin);
        const int64_t k = fan.along_rows ? row : column;
        const float weight = hat(crossing(fan, k) - static_cast<double>(fan.along_rows ? column : row));
        if (!(weight > 0.0f)) continue;
        // Lines from slice to slice: those whose rays pass less than a slice away, and one more at either end.
        const double per_line = (static_cast<double>(k) - fan.source) / fan.along * scan.line_spacing;
        const double middle = 0.5 * static_cast<double>(scan.n_lines - 1) - scan.line_offset / scan.line_spacing;
        const double at = middle + (static_cast<double>(slice) - scan.centre_slice) / per_line;
        const double reach = 1.0 / std::fabs(per_line) + 1.0, end = static_cast<double>(scan.n_lines);
        const double low = at - reach, high = at + reach + 1.0;
        const int64_t first = low < 0.0 ? 0 : low > end ? scan.n_lines : static_cast<int64_t>(low);
        const int64_t last = high < 0.0 ? 0 : high > end ? scan.n_lines : static_cast<int64_t>(high);
        const float* from = packed + (view * scan.n_bins + bin) * scan.n_lines;
        for (int64_t line = first; line < last; ++line) {
          const double v = line_place(scan, line);
          const float part = hat(height(scan, fan, k, climb(fan, v)) - static_cast<double>(slice));
          if (part > 0.0f) sum += from[line] * stride(fan, v) * weight * part;
        }
      }
    }
    volume[(slice * scan.n_rows + row) * scan.n_columns + column] = sum;
  }
};

struct Backproject {
  const float* packed;
  const View* views;
  double scale;
  float* volume;
  ConeScan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t slice = thread % scan.n_slices, pixel = thread / scan.n_slices;
    const int64_t row = pixel / scan.n_columns, column = pixel % scan.n_columns;
    float sum = 0.0f;
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const ConeShadow shadow = shadow_of(scan, views[view], row, column);
      const double v = shadow.first + static_cast<double>(slice) * shadow.step;
      if (!(shadow.bin > -1.0 && shadow.bin < static_cast<double>(scan.n_bins))) continue;
      if (!(v > -1.0 && v < static_cast<double>(scan.n_lines))) continue;
      const int64_t near = static_cast<int64_t>(shadow.bin + 1.0) - 1, below = static_cast<int64_t>(v + 1.0) - 1;
      const float weight = static_cast<float>(scale * shadow.nearness);
      for (int64_t x = near < 0 ? 0 : near; x <= near + 1 && x < scan.n_bins; ++x) {
        const float* from = packed + (view * scan.n_bins + x) * scan.n_lines;
        const float across = weight * hat(shadow.bin - static_cast<double>(x));
        for (int64_t s = below < 0 ? 0 : below; s <= below + 1 && s < scan.n_lines; ++s) {
          sum += from[s] * across * hat(v - static_cast<double>(s));
        }
      }
    }
    volume[(slice * scan.n_rows + row) * scan.n_columns + column] = sum;
  }
};

int64_t voxels_of(const ConeScan& scan) { return scan.n_slices * scan.n_rows * scan.n_columns; }
int64_t samples_of(const ConeScan& scan) { return scan.n_views * scan.n_lines * scan.n_bins; }

}  // namespace

int64_t cone_scratch(const ConeScan& scan) {
  return voxels_of(scan) > samples_of(scan) ? voxels_of(scan) : samples_of(scan);
}

void cone_forward(const float* volume, const View* views, float* scratch, float* projections, const ConeScan& scan,
                  const Context& context) {
  launch("cone_forward: packing", voxels_of(scan), context,
         Transpose{volume, scratch, scan.n_slices, scan.n_rows * scan.n_columns});
  launch("cone_forward", samples_of(scan), context, Forward{scratch, views, projections, scan});
}

void cone_adjoint(const float* projections, const View* views, float* scratch, float* volume, const ConeScan& scan,
                  const Context& context) {
  launch("cone_adjoint: packing", samples_of(scan), context, Transpose{projections, scratch, scan.n_lines, scan.n_bins});
  launch("cone_adjoint", voxels_of(scan), context, Adjoint{scratch, views, volume, scan});
}

void cone_backproject(const float* filtered, const View* views, double scale, float* scratch, float* volume,
                      const ConeScan& scan, const Context& context) {
  launch("cone_backproject: packing", samples_of(scan), context, Transpose{filtered, scratch, scan.n_lines, scan.n_bins});
  launch("cone_backproject", voxels_of(scan), context, Backproject{scratch, views, scale, volume, scan});
}

}  // namespace tpdm
