// Parallel-beam projection, its transpose, and the back-projection of filtered data.
//
// Slices are worked on in blocks of up to 16 with the slice index innermost: where a ray samples and with which weights
// is then computed once a block, and the arithmetic on slices is straight vector code. Images carry a border of one
// zero pixel, so that a sample needs no test for each of its four corners.
//
// Every output number is summed by one task in an order fixed by the geometry: no result depends on the thread count,
// on the width of the blocks, or on how an image is cut into bands.
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

using std::int64_t;

constexpr int kWidest = 16;
// Rows of an image that one task of an adjoint owns. A band repeats the samples of one row of its neighbour, so a
// narrow band wastes work, and a wide one leaves threads idle on single slices.
constexpr int64_t kBandRows = 16;

int block_width(int64_t n_slices) { return n_slices > 4 ? kWidest : n_slices > 1 ? 4 : 1; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t first, last;
};

// Samples of a ray that may touch rows [row_first, row_last) of an image n columns wide.
TPDM_HD Range samples_near(const Ray& ray, int64_t m, int64_t n, int64_t row_first,
                                                         int64_t row_last) {
  Range range{0, m};
  clip_samples(ray.row, ray.row_step, static_cast<double>(row_first - 1), static_cast<double>(row_last), range.first,
               range.last);
  clip_samples(ray.column, ray.column_step, -1.0, static_cast<double>(n), range.first, range.last);
  return range;
}

// image (n + 2, n + 2, B) with its border -> line (m, B)
template <int B>
TPDM_HD void forward_view(const float* image, float* line, const Lattice& lattice,
                                                        const View& view) {
  const int64_t n = lattice.n;
  const int64_t pitch = (n + 2) * B;
  for (int64_t bin = 0; bin < lattice.m; ++bin) {
    const Ray ray = ray_of(lattice, view, bin);
    const Range range = samples_near(ray, lattice.m, n, 0, n);
    float sum[B] = {};
    for (int64_t i = range.first; i < range.last; ++i) {
      const Sample s = sample_of(ray, i);
      if (s.row < -1 || s.row >= n || s.column < -1 || s.column >= n) continue;
      const float* p = image + (s.row + 1) * pitch + (s.column + 1) * B;
      for (int k = 0; k < B; ++k) {
        sum[k] += (s.w00 * p[k] + s.w01 * p[B + k]) + (s.w10 * p[pitch + k] + s.w11 * p[pitch + B + k]);
      }
    }
    for (int k = 0; k < B; ++k) line[bin * B + k] = sum[k];
  }
}

// lines (n_views, m, B) added to band (row_last - row_first + 2, n + 2, B), whose border takes what lies outside
template <int B>
TPDM_HD void adjoint_band(const float* lines, float* band, const Lattice& lattice,
                                                        const View* views, int64_t n_views, int64_t row_first,
                                                        int64_t row_last) {
  const int64_t n = lattice.n;
  const int64_t pitch = (n + 2) * B;
  for (int64_t v = 0; v < n_views; ++v) {
    for (int64_t bin = 0; bin < lattice.m; ++bin) {
      const Ray ray = ray_of(lattice, views[v], bin);
      const Range range = samples_near(ray, lattice.m, n, row_first, row_last);
      float value[B];
      for (int k = 0; k < B; ++k) value[k] = lines[(v * lattice.m + bin) * B + k];
      for (int64_t i = range.first; i < range.last; ++i) {
        const Sample s = sample_of(ray, i);
        if (s.row < row_first - 1 || s.row >= row_last || s.column < -1 || s.column >= n) continue;
        float* p = band + (s.row - row_first + 1) * pitch + (s.column + 1) * B;
        for (int k = 0; k < B; ++k) p[k] += s.w00 * value[k];
        for (int k = 0; k < B; ++k) p[B + k] += s.w01 * value[k];
        for (int k = 0; k < B; ++k) p[pitch + k] += s.w10 * value[k];
        for (int k = 0; k < B; ++k) p[pitch + B + k] += s.w11 * value[k];
      }
    }
  }
}

// lines (n_views, m, B) -> band (row_last - row_first + 2, n + 2, B), border unused
template <int B>
TPDM_HD void backproject_band(const float* lines, float* band, const Lattice& lattice,
                                                            const View* views, int64_t n_views, int64_t row_first,
                                                            int64_t row_last) {
  const int64_t n = lattice.n;
  const int64_t m = lattice.m;
  const double centre = 0.5 * static_cast<double>(m - 1);
  const double origin = centre - static_cast<double>(lattice.before);
  for (int64_t v = 0; v < n_views; ++v) {
    const float* line = lines + v * m * B;
    for (int64_t row = row_first; row < row_last; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        const double t = centre + (static_cast<double>(column) - origin) * views[v].cosine -
                         (static_cast<double>(row) - origin) * views[v].sine;
        // An image half a pixel off the lattice's centre has corners that look past the detector: zero is read there.
        const int64_t bin = static_cast<int64_t>(std::floor(t));
        const double fraction = t - static_cast<double>(bin);
        const float lower = bin >= 0 && bin < m ? static_cast<float>(1.0 - fraction) : 0.0f;
        const float upper = bin >= -1 && bin < m - 1 ? static_cast<float>(fraction) : 0.0f;
        const float* q = line + std::clamp<int64_t>(bin, 0, m - 1) * B;
        const float* r = line + std::clamp<int64_t>(bin + 1, 0, m - 1) * B;
        float* p = band + (row - row_first + 1) * (n + 2) * B + (column + 1) * B;
        for (int k = 0; k < B; ++k) p[k] += lower * q[k] + upper * r[k];
      }
    }
  }
}

// The loops above for each block width, in code for each instruction set.
#define TPDM_RADON_INSTANCES(B)                                                                                        \
  TPDM_WIDE void forward_view_##B(const float* image, float* line, const Lattice& lattice, const View& view) {         \
    forward_view<B>(image, line, lattice, view);                                                                       \
  }                                                                                                                    \
  TPDM_WIDE void adjoint_band_##B(const float* lines, float* band, const Lattice& lattice, const View* views,          \
                                  int64_t n_views, int64_t row_first, int64_t row_last) {                              \
    adjoint_band<B>(lines, band, lattice, views, n_views, row_first, row_last);                                        \
  }                                                                                                                    \
  TPDM_WIDE void backproject_band_##B(const float* lines, float* band, const Lattice& lattice, const View* views,      \
                                      int64_t n_views, int64_t row_first, int64_t row_last) {                          \
    backproject_band<B>(lines, band, lattice, views, n_views, row_first, row_last);                                    \
  }

TPDM_RADON_INSTANCES(16)
TPDM_RADON_INSTANCES(4)
TPDM_RADON_INSTANCES(1)
#undef TPDM_RADON_INSTANCES

using ForwardView = void (*)(const float*, float*, const Lattice&, const View&);
using Band = void (*)(const float*, float*, const Lattice&, const View*, int64_t, int64_t, int64_t);

// (n_slices, length) rows -> the part [first, last) of one block as (last - first, width), missing slices zero
void interleave(const float* slices, int64_t length, int64_t n_slices, int width, int64_t first, int64_t last,
                float* out) {
  for (int64_t i = first; i < last; ++i) {
    float* to = out + (i - first) * width;
    for (int k = 0; k < width; ++k) to[k] = k < n_slices ? slices[k * length + i] : 0.0f;
  }
}

// Common frame of the two back-projections: every task makes one band of one block of slices.
void for_each_band(Band fill, const float* lines_of_slices, float* images, int64_t n_slices, const Lattice& lattice,
                   const View* views, int64_t n_views, float scale, const Context& context) {
  const int width = block_width(n_slices);
  const int64_t n = lattice.n;
  const int64_t length = n_views * lattice.m;
  const int64_t n_blocks = ceil_div(n_slices, width);
  const int64_t n_bands = ceil_div(n, kBandRows);
  std::vector<float> packed(static_cast<std::size_t>(n_blocks * length * width));
  parallel_for(n_blocks * n_views, context, [&](int64_t task) {
    const int64_t block = task / n_views;
    const int64_t first = task % n_views * lattice.m;
    interleave(lines_of_slices + block * width * length, length, n_slices - block * width, width, first,
               first + lattice.m, packed.data() + (block * length + first) * width);
  });
  parallel_for(n_blocks * n_bands, context, [&](int64_t task) {
    const int64_t block = task / n_bands;
    const int64_t row_first = task % n_bands * kBandRows;
    const int64_t row_last = std::min(n, row_first + kBandRows);
    std::vector<float> band(static_cast<std::size_t>((row_last - row_first + 2) * (n + 2) * width));
    fill(packed.data() + block * length * width, band.data(), lattice, views, n_views, row_first, row_last);
    const int64_t used = std::min<int64_t>(width, n_slices - block * width);
    for (int64_t k = 0; k < used; ++k) {
      for (int64_t row = row_first; row < row_last; ++row) {
        const float* from = band.data() + (row - row_first + 1) * (n + 2) * width + width + k;
        float* to = images + ((block * width + k) * n + row) * n;
        for (int64_t column = 0; column < n; ++column) to[column] = scale * from[column * width];
      }
    }
  });
}

}  // namespace

void radon_forward(const float* images, float* sinogram, int64_t n_slices, const Lattice& lattice, const View* views,
                   int64_t n_views, const Context& context) {
  const int width = block_width(n_slices);
  const int64_t n = lattice.n;
  const int64_t n_blocks = ceil_div(n_slices, width);
  const int64_t padded = (n + 2) * (n + 2) * width;
  const ForwardView project = width == 16 ? forward_view_16 : width == 4 ? forward_view_4 : forward_view_1;
  std::vector<float> packed(static_cast<std::size_t>(n_blocks * padded));
  parallel_for(n_blocks * n, context, [&](int64_t task) {
    const int64_t block = task / n;
    const int64_t row = task % n;
    interleave(images + block * width * n * n, n * n, n_slices - block * width, width, row * n, (row + 1) * n,
               packed.data() + block * padded + ((row + 1) * (n + 2) + 1) * width);
  });
  parallel_for(n_blocks * n_views, context, [&](int64_t task) {
    const int64_t block = task / n_views;
    const int64_t v = task % n_views;
    std::vector<float> line(static_cast<std::size_t>(lattice.m * width));
    project(packed.data() + block * padded, line.data(), lattice, views[v]);
    const int64_t used = std::min<int64_t>(width, n_slices - block * width);
    for (int64_t k = 0; k < used; ++k) {
      float* to = sinogram + ((block * width + k) * n_views + v) * lattice.m;
      for (int64_t bin = 0; bin < lattice.m; ++bin) to[bin] = line[static_cast<std::size_t>(bin * width + k)];
    }
  });
}

void radon_adjoint(const float* sinogram, float* images, int64_t n_slices, const Lattice& lattice, const View* views,
                   int64_t n_views, const Context& context) {
  const int width = block_width(n_slices);
  const Band fill = width == 16 ? adjoint_band_16 : width == 4 ? adjoint_band_4 : adjoint_band_1;
  for_each_band(fill, sinogram, images, n_slices, lattice, views, n_views, 1.0f, context);
}

void radon_backproject(const float* filtered, float* images, int64_t n_slices, const Lattice& lattice,
                       const View* views, int64_t n_views, double scale, const Context& context) {
  const int width = block_width(n_slices);
  const Band fill = width == 16 ? backproject_band_16 : width == 4 ? backproject_band_4 : backproject_band_1;
  for_each_band(fill, filtered, images, n_slices, lattice, views, n_views, static_cast<float>(scale), context);
}

}  // namespace tpdm
