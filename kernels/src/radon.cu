// Projections and back-projections on a GPU.
//
// Slices are stored in groups of four, pixel by pixel: one 16-byte load fetches a pixel of four slices, and neighbouring
// threads, which work on neighbouring rays or pixels, fetch neighbouring 16 bytes. A thread keeps the sums of up to
// four groups in registers, so that where to sample and with which weights is found once for sixteen slices.
#include "kernels.h"
#include "launch.h"

namespace tpdm {
namespace {

using std::int32_t;
using std::int64_t;

constexpr int kMostGroups = 4;

struct alignas(16) Four {
  float a, b, c, d;
};

// One rounding instead of two, where a sum of products need not agree with the CPU to the last bit.
TPDM_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

TPDM_HD Four fused(float w, const Four& x, const Four& sum) {
  return Four{fused(w, x.a, sum.a), fused(w, x.b, sum.b), fused(w, x.c, sum.c), fused(w, x.d, sum.d)};
}

int64_t groups_of(int64_t n_slices) { return (n_slices + 3) / 4; }

// Odd, in units of 16 bytes: rows of neighbouring pixels then start in different banks of the cache.
TPDM_HD int64_t pitch_of(const Scan& scan) { return (scan.n_columns + 2) | 1; }
TPDM_HD int64_t plane_of(const Scan& scan) { return (scan.n_rows + 2) * pitch_of(scan); }

// images (n_slices, n_rows, n_columns) -> (groups, n_rows + 2, pitch), with a border of zeros
struct PackImages {
  const float* images;
  Four* packed;
  int64_t n_slices;
  Scan scan;

  TPDM_KERNEL void operator()(int64_t i) const {
    const int64_t plane = plane_of(scan), pitch = pitch_of(scan);
    const int64_t row = i % plane / pitch - 1, column = i % pitch - 1, slice = i / plane * 4;
    const bool inside = row >= 0 && row < scan.n_rows && column >= 0 && column < scan.n_columns;
    const int64_t size = scan.n_rows * scan.n_columns;
    const float* from = images + slice * size + row * scan.n_columns + column;
    packed[i] = Four{inside ? from[0] : 0.0f, inside && slice + 1 < n_slices ? from[size] : 0.0f,
                     inside && slice + 2 < n_slices ? from[2 * size] : 0.0f,
                     inside && slice + 3 < n_slices ? from[3 * size] : 0.0f};
  }
};

// slices (n_slices, length) -> (groups, length)
struct PackLines {
  const float* slices;
  Four* packed;
  int64_t n_slices, length;

  TPDM_KERNEL void operator()(int64_t i) const {
    const int64_t slice = i / length * 4;
    const float* from = slices + slice * length + i % length;
    packed[i] = Four{from[0], slice + 1 < n_slices ? from[length] : 0.0f,
                     slice + 2 < n_slices ? from[2 * length] : 0.0f, slice + 3 < n_slices ? from[3 * length] : 0.0f};
  }
};

// Write four slices' numbers as far as the slices exist.
TPDM_HD void unpack(const Four& value, float* out, int64_t slice, int64_t n_slices, int64_t length, int64_t i) {
  float* to = out + slice * length + i;
  if (slice < n_slices) to[0] = value.a;
  if (slice + 1 < n_slices) to[length] = value.b;
  if (slice + 2 < n_slices) to[2 * length] = value.c;
  if (slice + 3 < n_slices) to[3 * length] = value.d;
}

// One ray of 4 G slices; neighbouring threads take neighbouring bins.
template <int G>
struct Forward {
  const Four* packed;
  Rays rays;
  float* sinogram;
  int64_t n_slices;
  Scan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t n_rays = scan.n_views * scan.n_bins;
    const int32_t pitch = static_cast<int32_t>(pitch_of(scan));
    const int64_t plane = plane_of(scan);
    const int64_t index = thread % n_rays, group = thread / n_rays * G;
    const Ray ray = ray_at(rays, index);
    const Range range = samples_inside(ray, scan);
    // A group that does not exist repeats the last one; its sums are not written.
    const int64_t last = (n_slices + 3) / 4 - 1;
    const Four* images[G];
    Four sums[G] = {};
    for (int g = 0; g < G; ++g) images[g] = packed + (group + g < last ? group + g : last) * plane + pitch + 1;
    for (int32_t i = range.first; i < range.last; ++i) {
      const Sample s = sample_at(ray, i);
      const int32_t offset = s.row * pitch + s.column;
      const float up = 1.0f - s.down, left = 1.0f - s.right;
      const float w00 = up * left, w01 = up * s.right, w10 = s.down * left, w11 = s.down * s.right;
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const Four* p = images[g] + offset;
        sums[g] = fused(w11, p[pitch + 1], fused(w10, p[pitch], fused(w01, p[1], fused(w00, p[0], sums[g]))));
      }
    }
    for (int g = 0; g < G; ++g) unpack(sums[g], sinogram, (group + g) * 4, n_slices, n_rays, index);
  }
};

// One pixel of 4 G slices; neighbouring threads take neighbouring columns.
template <int G>
struct Adjoint {
  const Four* packed;
  Rays rays;
  const Shadow* shadows;
  float* images;
  int64_t n_slices;
  Scan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t n_pixels = scan.n_rows * scan.n_columns, n_rays = scan.n_views * scan.n_bins;
    const int64_t pixel = thread % n_pixels, group = thread / n_pixels * G;
    const int32_t row = static_cast<int32_t>(pixel / scan.n_columns);
    const int32_t column = static_cast<int32_t>(pixel % scan.n_columns);
    const int64_t last = (n_slices + 3) / 4 - 1;
    const Four* lines[G];
    Four sums[G] = {};
    for (int g = 0; g < G; ++g) lines[g] = packed + (group + g < last ? group + g : last) * n_rays;
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const Range bins = bins_near(scan, shadows[view], row, column);
      for (int32_t bin = bins.first; bin < bins.last; ++bin) {
        const int64_t index = view * scan.n_bins + bin;
        const float weight = pixel_weight(rays, static_cast<int32_t>(index), scan, row, column);
        if (weight == 0.0f) continue;
#pragma unroll
        for (int g = 0; g < G; ++g) sums[g] = fused(weight, lines[g][index], sums[g]);
      }
    }
    for (int g = 0; g < G; ++g) unpack(sums[g], images, (group + g) * 4, n_slices, n_pixels, pixel);
  }
};

// One pixel of four slices.
struct Backproject {
  const Four* packed;
  const View* views;
  double scale;
  float* images;
  int64_t n_slices;
  Scan scan;

  TPDM_KERNEL void operator()(int64_t thread) const {
    const int64_t n_pixels = scan.n_rows * scan.n_columns;
    const int64_t pixel = thread % n_pixels, group = thread / n_pixels;
    const double row = static_cast<double>(pixel / scan.n_columns) - scan.centre_row;
    const double column = static_cast<double>(pixel % scan.n_columns) - scan.centre_column;
    Four sum = {};
    for (int64_t view = 0; view < scan.n_views; ++view) {
      const double bin = bin_of(scan, views[view].cosine, views[view].sine, row, column);
      if (!(bin > -1.0 && bin < static_cast<double>(scan.n_bins))) continue;
      const double near = scale * nearness(scan, views[view], row, column);
      const int64_t first = static_cast<int64_t>(bin + 1.0) - 1;
      const double fraction = bin - static_cast<double>(first);
      const Four* line = packed + (group * scan.n_views + view) * scan.n_bins + first;
      if (first >= 0) sum = fused(static_cast<float>(near * (1.0 - fraction)), line[0], sum);
      if (first + 1 < scan.n_bins) sum = fused(static_cast<float>(near * fraction), line[1], sum);
    }
    unpack(sum, images, group * 4, n_slices, n_pixels, pixel);
  }
};

// As many groups a thread as there are, up to four.
template <template <int> class Kernel, class... Arguments>
void launch_groups(const char* name, int64_t n_slices, int64_t n_outputs, const Context& context,
                   const Arguments&... arguments) {
  const int64_t n_groups = groups_of(n_slices);
  if (n_groups >= kMostGroups) {
    launch(name, (n_groups + 3) / 4 * n_outputs, context, Kernel<4>{arguments...});
  } else if (n_groups >= 2) {
    launch(name, (n_groups + 1) / 2 * n_outputs, context, Kernel<2>{arguments...});
  } else {
    launch(name, n_groups * n_outputs, context, Kernel<1>{arguments...});
  }
}

}  // namespace

int64_t radon_forward_scratch(int64_t n_slices, const Scan& scan) { return 4 * groups_of(n_slices) * plane_of(scan); }

int64_t radon_adjoint_scratch(int64_t n_slices, const Scan& scan) {
  return 4 * groups_of(n_slices) * scan.n_views * scan.n_bins;
}

void radon_forward(const float* images, const Rays& rays, float* scratch, float* sinogram, int64_t n_slices,
                   const Scan& scan, const Context& context) {
  Four* packed = reinterpret_cast<Four*>(scratch);
  launch("radon_forward: packing", groups_of(n_slices) * plane_of(scan), context,
         PackImages{images, packed, n_slices, scan});
  launch_groups<Forward>("radon_forward", n_slices, scan.n_views * scan.n_bins, context,
                         static_cast<const Four*>(packed), rays, sinogram, n_slices, scan);
}

void radon_adjoint(const float* sinogram, const Rays& rays, const Shadow* shadows, float* scratch, float* images,
                   int64_t n_slices, const Scan& scan, const Context& context) {
  Four* packed = reinterpret_cast<Four*>(scratch);
  const int64_t n_rays = scan.n_views * scan.n_bins;
  launch("radon_adjoint: packing", groups_of(n_slices) * n_rays, context,
         PackLines{sinogram, packed, n_slices, n_rays});
  launch_groups<Adjoint>("radon_adjoint", n_slices, scan.n_rows * scan.n_columns, context,
                         static_cast<const Four*>(packed), rays, shadows, images, n_slices, scan);
}

void radon_backproject(const float* filtered, const View* views, double scale, float* scratch, float* images,
                       int64_t n_slices, const Scan& scan, const Context& context) {
  Four* packed = reinterpret_cast<Four*>(scratch);
  const int64_t n_rays = scan.n_views * scan.n_bins;
  launch("radon_backproject: packing", groups_of(n_slices) * n_rays, context,
         PackLines{filtered, packed, n_slices, n_rays});
  launch("radon_backproject", groups_of(n_slices) * scan.n_rows * scan.n_columns, context,
         Backproject{packed, views, scale, images, n_slices, scan});
}

}  // namespace tpdm
