// Cone-beam projections and back-projections on CPU threads.
//
// Slices, and lines of the detector, lie innermost: where a column of the detector crosses a plane is computed once for
// all of them, and interpolation across is vector code. Every output number is summed by one task in an order fixed by
// the geometry.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

using std::int32_t;
using std::int64_t;

// (outer, inner) -> (inner, outer)
void transpose(const float* from, int64_t outer, int64_t inner, float* to, const Context& context) {
  constexpr int64_t block = 16;
  parallel_for((inner + block - 1) / block, context, [&](int64_t task) {
    const int64_t first = task * block, last = std::min(inner, first + block);
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = first; i < last; ++i) to[i * outer + o] = from[o * inner + i];
    }
  });
}

// line = a w_a + b w_b, between zeros
TPDM_WIDE void blend(const float* a, float w_a, const float* b, float w_b, int64_t n, float* line) {
  for (int64_t z = 0; z < n; ++z) line[z] = a[z] * w_a + b[z] * w_b;
}

// Between which two entries of a line, that begins with a zero and ends with two, samples lie, and the parts of both.
struct Places {
  std::vector<int32_t> below;
  std::vector<float> low, high;

  explicit Places(int64_t n)
      : below(static_cast<std::size_t>(n)), low(static_cast<std::size_t>(n)), high(static_cast<std::size_t>(n)) {}
};

TPDM_HD void place(double at, double end, int32_t& below, float& low, float& high) {
  at = at < -1.0 ? -1.0 : at > end ? end : at;
  below = static_cast<int32_t>(at + 1.0);
  const double start = static_cast<double>(below) - 1.0;
  low = hat(at - start);
  high = hat(at - (start + 1.0));
}

// Where the rays of a fan cross plane k: see climb and height.
TPDM_WIDE void place_rays(const ConeScan& scan, const ConeFan& fan, int64_t k, const double* lines, int32_t* below,
                          float* low, float* high) {
  const double end = static_cast<double>(scan.n_slices);
  for (int64_t j = 0; j < scan.n_lines; ++j) {
    place(height(scan, fan, k, climb(fan, lines[j])), end, below[j], low[j], high[j]);
  }
}

// Where slices cast their shadows.
TPDM_WIDE void place_slices(const ConeScan& scan, const ConeShadow& shadow, int32_t* below, float* low, float* high) {
  const double end = static_cast<double>(scan.n_lines);
  for (int64_t z = 0; z < scan.n_slices; ++z) {
    place(shadow.first + static_cast<double>(z) * shadow.step, end, below[z], low[z], high[z]);
  }
}

TPDM_WIDE void gather(const float* line, const int32_t* below, const float* low, const float* high, int64_t n,
                      float* sums) {
  for (int64_t j = 0; j < n; ++j) sums[j] += line[below[j]] * low[j] + line[below[j] + 1] * high[j];
}

constexpr int64_t kTurns = 4;

// The transpose of gather, times weight, into kTurns sums.
TPDM_WIDE void scatter(const float* values, float weight, const int32_t* below, const float* low, const float* high,
                       int64_t n, int64_t pitch, float* sums) {
  const auto add = [&](int64_t j, float* to) {
    const float value = values[j] * weight;
    to[below[j]] += value * low[j];
    to[below[j] + 1] += value * high[j];
  };
  int64_t j = 0;
  for (; j + kTurns <= n; j += kTurns) {
    add(j, sums);
    add(j + 1, sums + pitch);
    add(j + 2, sums + 2 * pitch);
    add(j + 3, sums + 3 * pitch);
  }
  for (; j < n; ++j) add(j, sums);
}

std::vector<double> places_of_lines(const ConeScan& scan) {
  std::vector<double> lines(static_cast<std::size_t>(scan.n_lines));
  for (int64_t j = 0; j < scan.n_lines; ++j) lines[static_cast<std::size_t>(j)] = line_place(scan, j);
  return lines;
}

}  // namespace

int64_t cone_scratch(const ConeScan& scan) {
  return std::max(scan.n_slices * scan.n_rows * scan.n_columns, scan.n_views * scan.n_lines * scan.n_bins);
}

void cone_forward(const float* volume, const View* views, float* scratch, float* projections, const ConeScan& scan,
                  const Context& context) {
  const int64_t n_z = scan.n_slices, n_v = scan.n_lines;
  transpose(volume, n_z, scan.n_rows * scan.n_columns, scratch, context);
  const std::vector<float> nothing(static_cast<std::size_t>(n_z), 0.0f);
  const std::vector<double> lines = places_of_lines(scan);
  parallel_for(scan.n_views * scan.n_bins, context, [&](int64_t task) {
    const int64_t view = task / scan.n_bins, bin = task % scan.n_bins;
    const ConeFan fan = fan_at(scan, views[view], bin);
    const int64_t n_along = fan.along_rows ? scan.n_rows : scan.n_columns;
    const int64_t n_across = fan.along_rows ? scan.n_columns : scan.n_rows;
    const int64_t along = (fan.along_rows ? scan.n_columns : 1) * n_z;
    const int64_t across = (fan.along_rows ? 1 : scan.n_columns) * n_z;
    Places rays(n_v);
    std::vector<float> sums(static_cast<std::size_t>(n_v), 0.0f);
    // One zero before the first slice, and two beyond the last one.
    std::vector<float> line(static_cast<std::size_t>(n_z + 3), 0.0f);
    for (int64_t k = 0; k < n_along; ++k) {
      const double t = crossing(fan, k);
      if (!(t > -1.0 && t < static_cast<double>(n_across))) continue;
      const double floor = std::floor(t);
      const int64_t near = static_cast<int64_t>(floor);
      const float* a = near >= 0 ? scratch + k * along + near * across : nothing.data();
      const float* b = near + 1 < n_across ? scratch + k * along + (near + 1) * across : nothing.data();
      blend(a, hat(t - floor), b, hat(t - (floor + 1.0)), n_z, line.data() + 1);
      place_rays(scan, fan, k, lines.data(), rays.below.data(), rays.low.data(), rays.high.data());
      gather(line.data(), rays.below.data(), rays.low.data(), rays.high.data(), n_v, sums.data());
    }
    for (int64_t j = 0; j < n_v; ++j) {
      projections[(view * n_v + j) * scan.n_bins + bin] =
          sums[static_cast<std::size_t>(j)] * stride(fan, line_place(scan, j));
    }
  });
}

void cone_adjoint(const float* projections, const View* views, float* scratch, float* volume, const ConeScan& scan,
                  const Context& context) {
  const int64_t n_z = scan.n_slices, n_v = scan.n_lines;
  for (int64_t view = 0; view < scan.n_views; ++view) {
    const int64_t first = view * n_v * scan.n_bins;
    transpose(projections + first, n_v, scan.n_bins, scratch + first, context);
  }
  parallel_for(scan.n_views * scan.n_bins, context, [&](int64_t task) {
    const ConeFan fan = fan_at(scan, views[task / scan.n_bins], task % scan.n_bins);
    for (int64_t j = 0; j < n_v; ++j) scratch[task * n_v + j] *= stride(fan, line_place(scan, j));
  });
  const std::vector<double> lines = places_of_lines(scan);
  parallel_for(scan.n_rows * scan.n_columns, context, [&](int64_t task) {
    const int64_t row = task / scan.n_columns, column = task % scan.n_columns;
    // Lines of the detector take turns with four sums, so that a sum seldom waits for the one before.
    const int64_t pitch = n_z + 3;
    std::vector<float> sums(static_cast<std::size_t>(kTurns * pitch), 0.0f);
    Places rays(n_v);
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const Range bins = bins_near(scan, views[view], row, column);
      for (int32_t bin = bins.first; bin < bins.last; ++bin) {
        const ConeFan fan = fan_at(scan, views[view], bin);
        const int64_t k = fan.along_rows ? row : column;
        const float weight = hat(crossing(fan, k) - static_cast<double>(fan.along_rows ? column : row));
        if (!(weight > 0.0f)) continue;
        const float* from = scratch + (view * scan.n_bins + bin) * n_v;
        place_rays(scan, fan, k, lines.data(), rays.below.data(), rays.low.data(), rays.high.data());
        scatter(from, weight, rays.below.data(), rays.low.data(), rays.high.data(), n_v, pitch, sums.data());
      }
    }
    for (int64_t z = 0; z < n_z; ++z) {
      float sum = 0.0f;
      for (int64_t turn = 0; turn < kTurns; ++turn) sum += sums[static_cast<std::size_t>(turn * pitch + z + 1)];
      volume[(z * scan.n_rows + row) * scan.n_columns + column] = sum;
    }
  });
}

void cone_backproject(const float* filtered, const View* views, double scale, float* scratch, float* volume,
                      const ConeScan& scan, const Context& context) {
  const int64_t n_z = scan.n_slices, n_v = scan.n_lines;
  for (int64_t view = 0; view < scan.n_views; ++view) {
    const int64_t first = view * n_v * scan.n_bins;
    transpose(filtered + first, n_v, scan.n_bins, scratch + first, context);
  }
  const std::vector<float> nothing(static_cast<std::size_t>(n_v), 0.0f);
  parallel_for(scan.n_rows * scan.n_columns, context, [&](int64_t task) {
    const int64_t row = task / scan.n_columns, column = task % scan.n_columns;
    std::vector<float> sums(static_cast<std::size_t>(n_z), 0.0f);
    std::vector<float> line(static_cast<std::size_t>(n_v + 3), 0.0f);
    Places slices(n_z);
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const ConeShadow shadow = shadow_of(scan, views[view], row, column);
      if (!(shadow.bin > -1.0 && shadow.bin < static_cast<double>(scan.n_bins))) continue;
      const double floor = std::floor(shadow.bin);
      const int64_t near = static_cast<int64_t>(floor);
      const float weight = static_cast<float>(scale * shadow.nearness);
      const float* from = scratch + view * scan.n_bins * n_v;
      const float* a = near >= 0 ? from + near * n_v : nothing.data();
      const float* b = near + 1 < scan.n_bins ? from + (near + 1) * n_v : nothing.data();
      blend(a, weight * hat(shadow.bin - floor), b, weight * hat(shadow.bin - (floor + 1.0)), n_v, line.data() + 1);
      place_slices(scan, shadow, slices.below.data(), slices.low.data(), slices.high.data());
      gather(line.data(), slices.below.data(), slices.low.data(), slices.high.data(), n_z, sums.data());
    }
    for (int64_t z = 0; z < n_z; ++z) {
      volume[(z * scan.n_rows + row) * scan.n_columns + column] = sums[static_cast<std::size_t>(z)];
    }
  });
}

}  // namespace tpdm
