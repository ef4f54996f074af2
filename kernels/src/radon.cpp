// Projections and back-projections on CPU threads.
//
// Slices are worked on in blocks with the slice index innermost: where a ray samples and with which weights is computed
// once for all blocks, and the arithmetic on slices is straight vector code. Images carry a border of one zero pixel,
// so that a sample needs no test for each of its four corners.
//
// Every output number is summed by one task in an order fixed by the geometry: no result depends on the number of
// threads, on the width of the blocks, or on how an image is cut into tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tpdm {
namespace {

using std::int32_t;
using std::int64_t;

constexpr int kWidest = 16;
constexpr int64_t kBinsPerTask = 16;
constexpr int32_t kSamplesAtOnce = 64;
// A tile's weights for some views, and the slices that they act on, fit a core's nearest cache.
constexpr int64_t kTileRows = 8;
constexpr int64_t kTileColumns = 32;
constexpr int64_t kTile = kTileRows * kTileColumns;
constexpr int64_t kViewsAtOnce = 8;

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// How a stack is cut into blocks of slices.
struct Blocks {
  int64_t n_slices;
  int64_t width;
  int64_t n;

  explicit Blocks(int64_t n_slices)
      : n_slices(n_slices),
        width(n_slices > 8 ? kWidest : n_slices > 4 ? 8 : n_slices > 1 ? 4 : 1),
        n(blocks_of(n_slices, width)) {}

  int64_t used(int64_t block) const { return std::min(width, n_slices - block * width); }
};

// Blocks of 16 slices are vectors of 64 bytes: aligned, none of them lies in two cache lines.
float* aligned(float* memory) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(memory);
  return memory + (64 - address % 64) % 64 / sizeof(float);
}
constexpr int64_t kSpare = 64 / sizeof(float);

int64_t padded_size(const Scan& scan) { return (scan.n_rows + 2) * (scan.n_columns + 2); }

// Entries [first, last) of every slice of a block, one after the other, to (last - first, width); missing slices are 0.
void interleave(const float* slices, int64_t length, int64_t n_slices, int64_t width, int64_t first, int64_t last,
                float* out) {
  for (int64_t i = first; i < last; ++i) {
    float* to = out + (i - first) * width;
    for (int64_t k = 0; k < width; ++k) to[k] = k < n_slices ? slices[k * length + i] : 0.0f;
  }
}

// The same number of B slices, as a vector that stays in registers: an array of B floats would be kept in memory.
template <int B>
struct Lanes {
  typedef float Vector __attribute__((vector_size(4 * B)));
};
template <>
struct Lanes<1> {
  typedef float Vector;
};

template <class Vector>
TPDM_HD Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Some bins of one view: packed (n_blocks, n_rows + 2, n_columns + 2, B) -> lines (n_blocks, bins, B)
template <int B>
TPDM_HD void forward_bins(const float* packed, const Rays& rays, const Scan& scan, int64_t first_ray, int64_t n_bins,
                          int64_t n_blocks, float* lines) {
  using Vector = typename Lanes<B>::Vector;
  const int32_t pitch = static_cast<int32_t>(scan.n_columns + 2);
  const int64_t plane = padded_size(scan) * B;
  int32_t offsets[kSamplesAtOnce];
  float downs[kSamplesAtOnce], rights[kSamplesAtOnce];
  for (int64_t bin = 0; bin < n_bins; ++bin) {
    const Ray ray = ray_at(rays, first_ray + bin);
    const Range range = samples_inside(ray, scan);
    for (int64_t i = 0; i < n_blocks * B; ++i) lines[(i / B * n_bins + bin) * B + i % B] = 0.0f;
    for (int32_t start = range.first; start < range.last; start += kSamplesAtOnce) {
      const int32_t n = std::min(kSamplesAtOnce, range.last - start);
      for (int32_t j = 0; j < n; ++j) {
        const Sample s = sample_at(ray, start + j);
        offsets[j] = (s.row + 1) * pitch + s.column + 1;
        downs[j] = s.down;
        rights[j] = s.right;
      }
      for (int64_t block = 0; block < n_blocks; ++block) {
        float* line = lines + (block * n_bins + bin) * B;
        const float* image = packed + block * plane;
        Vector sum = load<Vector>(line);
        for (int32_t j = 0; j < n; ++j) {
          const float* p = image + static_cast<int64_t>(offsets[j]) * B;
          const float* q = p + pitch * B;
          const float down = downs[j], right = rights[j], up = 1.0f - down, left = 1.0f - right;
          const float w00 = up * left, w01 = up * right, w10 = down * left, w11 = down * right;
          sum += (w00 * load<Vector>(p) + w01 * load<Vector>(p + B)) + (w10 * load<Vector>(q) + w11 * load<Vector>(q + B));
        }
        std::memcpy(line, &sum, sizeof sum);
      }
    }
  }
}

// A rectangle of pixels, and for one view the bins that each of them takes from: bin firsts[p] + k with weight
// weights[k * kTile + p], p = row * kTileColumns + column.
struct Tile {
  int32_t row, column, n_rows, n_columns;
};

// The widest range of bins that a pixel of the tile takes from in any view: how many weights a pixel needs room for.
int32_t most_bins(const Scan& scan, const Shadow* shadows, const Tile& tile) {
  int32_t most = 1;
  for (int64_t v = 0; v < scan.n_views; ++v) {
    if (scan.per_source == 0.0) {
      // All pixels have ranges of one length, give or take a bin; none is longer than the detector.
      const float longest = static_cast<float>(scan.n_bins - 1);
      most = std::max(most, static_cast<int32_t>(std::min(2 * shadows[v].reach + 0.0625f, longest)) + 1);
      continue;
    }
    for (int32_t r = 0; r < tile.n_rows; ++r) {
      for (int32_t c = 0; c < tile.n_columns; ++c) {
        const Range range = bins_near(scan, shadows[v], tile.row + r, tile.column + c);
        most = std::max(most, range.last - range.first);
      }
    }
  }
  return most;
}

// Geometry by value: what the compiler need not read again after every write, it moves out of the loops.
TPDM_WIDE void adjoint_weights(const Scan scan, const Rays rays, const Shadow view, int32_t first_ray, const Tile tile,
                               int32_t n_weights, int32_t* firsts, float* weights) {
  int32_t lasts[kTileColumns];
  const int32_t last_bin = static_cast<int32_t>(scan.n_bins) - 1;
  for (int32_t r = 0; r < tile.n_rows; ++r) {
    int32_t* first = firsts + r * kTileColumns;
    const float row = static_cast<float>(tile.row + r) - static_cast<float>(scan.centre_row);
    const float column = static_cast<float>(tile.column) - static_cast<float>(scan.centre_column);
    if (scan.per_source == 0.0) {
      for (int32_t c = 0; c < tile.n_columns; ++c) {
        const Range range = bins_near_parallel(scan, view, row, column + static_cast<float>(c));
        first[c] = range.first;
        lasts[c] = range.last;
      }
    } else {
      for (int32_t c = 0; c < tile.n_columns; ++c) {
        const Range range = bins_near_fan(scan, view, row, column + static_cast<float>(c));
        first[c] = range.first;
        lasts[c] = range.last;
      }
    }
    for (int32_t k = 0; k < n_weights; ++k) {
      float* weight = weights + k * kTile + r * kTileColumns;
      for (int32_t c = 0; c < tile.n_columns; ++c) {
        const int32_t bin = first[c] + k;
        const int32_t index = first_ray + (bin < last_bin ? bin : last_bin);
        const float w = pixel_weight(rays, index, scan, tile.row + r, tile.column + c);
        weight[c] = bin < lasts[c] ? w : 0.0f;
      }
    }
  }
}

TPDM_WIDE void backproject_weights(const Scan& scan, const View& view, double scale, const Tile& tile, int32_t* firsts,
                                   float* weights) {
  for (int32_t r = 0; r < tile.n_rows; ++r) {
    for (int32_t c = 0; c < tile.n_columns; ++c) {
      const int32_t p = r * static_cast<int32_t>(kTileColumns) + c;
      const double row = tile.row + r - scan.centre_row, column = tile.column + c - scan.centre_column;
      const double bin = bin_of(scan, view.cosine, view.sine, row, column);
      const double near = scale * nearness(scan, view, row, column);
      // Beyond a bin outside the detector nothing is seen; no further, so that the integer below holds it.
      const double kept = std::min(std::max(bin, -2.0), static_cast<double>(scan.n_bins) + 1.0);
      const double floor = std::floor(kept);
      firsts[p] = static_cast<int32_t>(floor);
      const bool has_first = floor >= 0.0 && floor < static_cast<double>(scan.n_bins);
      const bool has_second = floor >= -1.0 && floor + 1.0 < static_cast<double>(scan.n_bins);
      weights[p] = has_first ? static_cast<float>(near * (1.0 - (kept - floor))) : 0.0f;
      weights[kTile + p] = has_second ? static_cast<float>(near * (kept - floor)) : 0.0f;
    }
  }
}

// What a pixel takes from the lines of some views: entries [starts[p], starts[p + 1]) of places and weights.
struct Entries {
  std::vector<int32_t> starts, places;
  std::vector<float> weights;
};

// Leave out weights of zero, some of which stand for bins that do not exist: weights (n_views, n_weights, kTile) and
// firsts (n_views, kTile) -> entries, places counted in bins from the first view's first.
void gather_entries(int64_t n_bins, int64_t n_views, const Tile& tile, int32_t n_weights, const int32_t* firsts,
                    const float* weights, Entries& entries) {
  int32_t n = 0;
  for (int64_t r = 0; r < tile.n_rows; ++r) {
    for (int64_t c = 0; c < tile.n_columns; ++c) {
      const int64_t p = r * kTileColumns + c;
      entries.starts[static_cast<std::size_t>(p)] = n;
      for (int64_t v = 0; v < n_views; ++v) {
        const int32_t place = static_cast<int32_t>(v * n_bins) + firsts[v * kTile + p];
        for (int32_t k = 0; k < n_weights; ++k) {
          const float w = weights[(v * n_weights + k) * kTile + p];
          entries.places[static_cast<std::size_t>(n)] = place + k;
          entries.weights[static_cast<std::size_t>(n)] = w;
          // NaN cannot occur: weights come from the geometry alone.
          n += w != 0.0f ? 1 : 0;
        }
      }
      entries.starts[static_cast<std::size_t>(p) + 1] = n;
    }
  }
}

// One block: sums (kTile, B) += entries times lines (n_views * n_bins, B)
template <int B>
TPDM_HD void add_views(const float* lines, const Tile& tile, const int32_t* starts, const int32_t* places,
                       const float* weights, float* sums) {
  using Vector = typename Lanes<B>::Vector;
  for (int32_t r = 0; r < tile.n_rows; ++r) {
    for (int32_t c = 0; c < tile.n_columns; ++c) {
      const int64_t p = r * kTileColumns + c;
      Vector sum = load<Vector>(sums + p * B);
      for (int32_t e = starts[p]; e < starts[p + 1]; ++e) {
        sum += weights[e] * load<Vector>(lines + static_cast<int64_t>(places[e]) * B);
      }
      std::memcpy(sums + p * B, &sum, sizeof sum);
    }
  }
}

// target_clones takes no templates.
#define TPDM_INSTANCES(B)                                                                                            \
  TPDM_WIDE void forward_bins_##B(const float* packed, const Rays& rays, const Scan& scan, int64_t first_ray,        \
                                  int64_t n_bins, int64_t n_blocks, float* lines) {                                  \
    forward_bins<B>(packed, rays, scan, first_ray, n_bins, n_blocks, lines);                                         \
  }                                                                                                                  \
  TPDM_WIDE void add_views_##B(const float* lines, const Tile& tile, const int32_t* starts, const int32_t* places,   \
                               const float* weights, float* sums) {                                                  \
    add_views<B>(lines, tile, starts, places, weights, sums);                                                        \
  }
TPDM_INSTANCES(1)
TPDM_INSTANCES(4)
TPDM_INSTANCES(8)
TPDM_INSTANCES(16)
#undef TPDM_INSTANCES

template <class Function>
Function of_width(int64_t width, Function one, Function four, Function eight, Function sixteen) {
  return width == 16 ? sixteen : width == 8 ? eight : width == 4 ? four : one;
}

// Common frame of the two back-projections: every task makes one tile of all slices.
//
// room(tile) says how many weights a pixel needs, fill(view, tile, n_weights, firsts, weights) computes them.
template <class Room, class Fill>
void for_each_tile(const float* sinogram, float* scratch, float* images, int64_t n_slices, const Scan& scan,
                   const Context& context, const Room& room, const Fill& fill) {
  const Blocks blocks(n_slices);
  const auto add = of_width(blocks.width, add_views_1, add_views_4, add_views_8, add_views_16);
  const int64_t width = blocks.width;
  const int64_t length = scan.n_views * scan.n_bins;
  float* packed = aligned(scratch);
  parallel_for(blocks.n * scan.n_views, context, [&](int64_t task) {
    const int64_t block = task / scan.n_views;
    const int64_t first = task % scan.n_views * scan.n_bins;
    interleave(sinogram + block * width * length, length, blocks.used(block), width, first, first + scan.n_bins,
               packed + (block * length + first) * width);
  });
  const int64_t tiles_across = blocks_of(scan.n_columns, kTileColumns);
  parallel_for(blocks_of(scan.n_rows, kTileRows) * tiles_across, context, [&](int64_t task) {
    const int64_t row = task / tiles_across * kTileRows, column = task % tiles_across * kTileColumns;
    const Tile tile{static_cast<int32_t>(row), static_cast<int32_t>(column),
                    static_cast<int32_t>(std::min(kTileRows, scan.n_rows - row)),
                    static_cast<int32_t>(std::min(kTileColumns, scan.n_columns - column))};
    const int32_t n_weights = room(tile);
    std::vector<float> sums(static_cast<std::size_t>(blocks.n * kTile * width));
    std::vector<float> weights(static_cast<std::size_t>(kViewsAtOnce * n_weights * kTile));
    std::vector<int32_t> firsts(static_cast<std::size_t>(kViewsAtOnce * kTile));
    Entries entries;
    entries.starts.resize(kTile + 1);
    // One more: the place for the next entry is written before it is known whether it counts.
    entries.places.resize(weights.size() + 1);
    entries.weights.resize(weights.size() + 1);
    for (int64_t start = 0; start < scan.n_views; start += kViewsAtOnce) {
      const int64_t n_views = std::min(kViewsAtOnce, scan.n_views - start);
      for (int64_t v = 0; v < n_views; ++v) {
        fill(start + v, tile, n_weights, firsts.data() + v * kTile, weights.data() + v * n_weights * kTile);
      }
      gather_entries(scan.n_bins, n_views, tile, n_weights, firsts.data(), weights.data(), entries);
      for (int64_t block = 0; block < blocks.n; ++block) {
        add(packed + (block * length + start * scan.n_bins) * width, tile, entries.starts.data(), entries.places.data(),
            entries.weights.data(), sums.data() + block * kTile * width);
      }
    }
    for (int64_t slice = 0; slice < n_slices; ++slice) {
      const float* from = sums.data() + slice / width * kTile * width + slice % width;
      for (int64_t r = 0; r < tile.n_rows; ++r) {
        float* to = images + (slice * scan.n_rows + row + r) * scan.n_columns + column;
        for (int64_t c = 0; c < tile.n_columns; ++c) to[c] = from[(r * kTileColumns + c) * width];
      }
    }
  });
}

}  // namespace

int64_t radon_forward_scratch(int64_t n_slices, const Scan& scan) {
  const Blocks blocks(n_slices);
  return blocks.n * blocks.width * padded_size(scan) + kSpare;
}

int64_t radon_adjoint_scratch(int64_t n_slices, const Scan& scan) {
  const Blocks blocks(n_slices);
  return blocks.n * blocks.width * scan.n_views * scan.n_bins + kSpare;
}

void radon_forward(const float* images, const Rays& rays, float* scratch, float* sinogram, int64_t n_slices,
                   const Scan& scan, const Context& context) {
  const Blocks blocks(n_slices);
  const int64_t width = blocks.width, pitch = (scan.n_columns + 2) * width, size = scan.n_rows * scan.n_columns;
  float* packed = aligned(scratch);
  const auto project = of_width(width, forward_bins_1, forward_bins_4, forward_bins_8, forward_bins_16);
  // Rows of the padded images, the first and the last all border.
  parallel_for(blocks.n * (scan.n_rows + 2), context, [&](int64_t task) {
    const int64_t block = task / (scan.n_rows + 2);
    const int64_t row = task % (scan.n_rows + 2) - 1;
    float* to = packed + task * pitch;
    if (row < 0 || row == scan.n_rows) {
      std::fill(to, to + pitch, 0.0f);
      return;
    }
    std::fill(to, to + width, 0.0f);
    interleave(images + block * width * size, size, blocks.used(block), width, row * scan.n_columns,
               (row + 1) * scan.n_columns, to + width);
    std::fill(to + pitch - width, to + pitch, 0.0f);
  });
  const int64_t n_parts = blocks_of(scan.n_bins, kBinsPerTask);
  parallel_for(scan.n_views * n_parts, context, [&](int64_t task) {
    const int64_t view = task / n_parts;
    const int64_t bin = task % n_parts * kBinsPerTask;
    const int64_t n = std::min(kBinsPerTask, scan.n_bins - bin);
    std::vector<float> lines(static_cast<std::size_t>(blocks.n * n * width));
    project(packed, rays, scan, view * scan.n_bins + bin, n, blocks.n, lines.data());
    for (int64_t slice = 0; slice < n_slices; ++slice) {
      const float* from = lines.data() + slice / width * n * width + slice % width;
      float* to = sinogram + (slice * scan.n_views + view) * scan.n_bins + bin;
      for (int64_t i = 0; i < n; ++i) to[i] = from[i * width];
    }
  });
}

void radon_adjoint(const float* sinogram, const Rays& rays, const Shadow* shadows, float* scratch, float* images,
                   int64_t n_slices, const Scan& scan, const Context& context) {
  for_each_tile(
      sinogram, scratch, images, n_slices, scan, context,
      [&](const Tile& tile) { return most_bins(scan, shadows, tile); },
      [&](int64_t view, const Tile& tile, int32_t n_weights, int32_t* firsts, float* weights) {
        adjoint_weights(scan, rays, shadows[view], static_cast<int32_t>(view * scan.n_bins), tile, n_weights, firsts,
                        weights);
      });
}

void radon_backproject(const float* filtered, const View* views, double scale, float* scratch, float* images,
                       int64_t n_slices, const Scan& scan, const Context& context) {
  for_each_tile(
      filtered, scratch, images, n_slices, scan, context, [](const Tile&) { return 2; },
      [&](int64_t view, const Tile& tile, int32_t, int32_t* firsts, float* weights) {
        backproject_weights(scan, views[view], scale, tile, firsts, weights);
      });
}

}  // namespace tpdm
