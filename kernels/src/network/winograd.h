// Convolutions of 3×3 by Winograd's F(4×4, 3×3), on the points 0, ±√½, ±√2, ∞.
//
// Half the rounding error of the usual 0, ±1, ±2, ∞: no power of a point is large. Source: Lavin & Gray, Fast algorithms for
// convolutional neural networks, 2016; the choice of points after Barabasz et al., Error analysis and improving the accuracy of
// Winograd convolution, 2020.
#pragma once

#include "product.h"

namespace tpdm {
namespace {

constexpr int kTile = 4, kFrame = 6, kProducts = 36;
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;

inline void transform_input(const Lanes* d, int step, Lanes* o) {
  const Lanes d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Lanes p = d4 - 2.0f * d2, q = kA * (d3 - 2.0f * d1), r = d4 - 0.5f * d2, s = kB * (d3 - 0.5f * d1);
  o[0] = d0 + d4 - 2.5f * d2;
  o[1] = p + q;
  o[2] = p - q;
  o[3] = r + s;
  o[4] = r - s;
  o[5] = d1 + d5 - 2.5f * d3;
}

inline void transform_output(const Lanes* m, int step, Lanes* y) {
  const Lanes s1 = m[step] + m[2 * step], d1 = m[step] - m[2 * step];
  const Lanes s2 = m[3 * step] + m[4 * step], d2 = m[3 * step] - m[4 * step];
  y[0] = m[0] + s1 + s2;
  y[1] = kA * d1 + kB * d2;
  y[2] = 0.5f * s1 + 2.0f * s2;
  y[3] = 0.5f * kA * d1 + 2.0f * kB * d2 + m[5 * step];
}

inline void transform_taps(const Lanes* g, int step, Lanes* o) {
  const Lanes even_a = g[0] + 0.5f * g[2 * step], odd_a = kA * g[step];
  const Lanes even_b = g[0] + 2.0f * g[2 * step], odd_b = kB * g[step];
  o[0] = g[0];
  o[1] = (even_a + odd_a) * (-1.0f / 1.5f);
  o[2] = (even_a - odd_a) * (-1.0f / 1.5f);
  o[3] = (even_b + odd_b) * (1.0f / 6.0f);
  o[4] = (even_b - odd_b) * (1.0f / 6.0f);
  o[5] = g[2 * step];
}

void winograd_weights(const float* taps, int in_channels, int out_channels, float* weights) {
  const long n_in = static_cast<long>(blocks_of(in_channels)) * kLanes;
  for (int k = 0; k < blocks_of(out_channels); ++k)
    for (long c = 0; c < n_in; ++c) {
      Lanes g[9], rows[3][kFrame], columns[kFrame];
      for (int i = 0; i < 9; ++i) g[i] = load(taps + ((k * n_in + c) * 9 + i) * kLanes);
      for (int i = 0; i < 3; ++i) transform_taps(g + 3 * i, 1, rows[i]);
      for (int j = 0; j < kFrame; ++j) {
        transform_taps(&rows[0][j], kFrame, columns);
        for (int i = 0; i < kFrame; ++i)
          store(weights + ((k * kProducts + i * kFrame + j) * n_in + c) * kLanes, columns[i]);
      }
    }
}

// Tiles that go through all steps together: their transformed input stays in the second-level cache.
long tiles_at_once(int in_blocks, long n_tiles) {
  constexpr long kBytes = 768 * 1024;
  const long fitting = kBytes / (kProducts * kLanes * long{sizeof(float)} * in_blocks) / kPixelsOfOne * kPixelsOfOne;
  return smaller(up_to_multiple(n_tiles, kPixelsOfOne), larger(kPixelsOfOne, smaller(fitting, 256)));
}

// One line more than the data: 36 streams a power of two apart would fall on the same lines of the cache.
inline long product_stride(long lines) { return (lines + 1) * kLanes; }

long n_tiles_of(ImageSize size) {
  return static_cast<long>((size.height + kTile - 1) / kTile) * ((size.width + kTile - 1) / kTile);
}

long winograd_scratch(const WinogradConvolution& c, int n_images, ImageSize size) {
  const long tiles = tiles_at_once(blocks_of(c.in_channels), n_images * n_tiles_of(size));
  return kProducts * (product_stride(tiles * blocks_of(c.in_channels)) + product_stride(tiles * kBlocksAtOnce));
}

void gather_tile(const float* in, ImageSize size, int y, int x, float* v, long stride) {
  Lanes d[kFrame], rows[kFrame][kFrame];
  const bool inside = y >= 0 && x >= 0 && y + kFrame <= size.height && x + kFrame <= size.width;
  for (int i = 0; i < kFrame; ++i) {
    const float* row = in + (static_cast<long>(y + i) * size.width + x) * kLanes;
    if (inside) {
      for (int j = 0; j < kFrame; ++j) d[j] = load(row + j * kLanes);
    } else {
      const bool is_row = y + i >= 0 && y + i < size.height;
      for (int j = 0; j < kFrame; ++j)
        d[j] = is_row && x + j >= 0 && x + j < size.width ? load(row + j * kLanes) : all(0);
    }
    transform_input(d, 1, rows[i]);
  }
  for (int j = 0; j < kFrame; ++j) {
    transform_input(&rows[0][j], kFrame, d);
    for (int i = 0; i < kFrame; ++i) store(v + (i * kFrame + j) * stride, d[i]);
  }
}

void scatter_tile(const float* m, long stride, ImageSize size, int y, int x, long block, const Epilogue& e, float* out) {
  Lanes column[kFrame], half[kTile][kFrame], row[kTile];
  for (int j = 0; j < kFrame; ++j) {
    for (int i = 0; i < kFrame; ++i) column[i] = load(m + (i * kFrame + j) * stride);
    transform_output(column, 1, row);
    for (int i = 0; i < kTile; ++i) half[i][j] = row[i];
  }
  for (int i = 0; i < kTile && y + i < size.height; ++i) {
    transform_output(half[i], 1, row);
    for (int j = 0; j < kTile && x + j < size.width; ++j) {
      const long at = (block * size.pixels() + static_cast<long>(y + i) * size.width + x + j) * kLanes;
      store(out + at, finished(row[j], e, at, block));
    }
  }
}

void winograd(const WinogradConvolution& c, int n_images, const float* in, ImageSize size, const Epilogue& e, float* out,
              float* scratch) {
  const int in_blocks = blocks_of(c.in_channels), out_blocks = blocks_of(c.out_channels);
  const int across = (size.width + kTile - 1) / kTile;
  const long of_image = n_tiles_of(size), n_tiles = n_images * of_image, at_once = tiles_at_once(in_blocks, n_tiles);
  const long in_stride = in_blocks * size.pixels() * kLanes, out_stride = out_blocks * size.pixels() * kLanes;
  const long n_in = static_cast<long>(in_blocks) * kLanes;
  const long v_stride = product_stride(at_once * in_blocks), m_stride = product_stride(at_once * kBlocksAtOnce);
  float* v = scratch;
  float* m = scratch + kProducts * v_stride;
  long offsets[kMostChannels / kLanes];
  for (int b = 0; b < in_blocks; ++b) offsets[b] = b * at_once * kLanes;
  const Operands o{offsets, in_blocks, kLanes, kLanes, kLanes, kProducts * n_in * kLanes};

  for (long first = 0; first < n_tiles; first += at_once) {
    const long n = smaller(at_once, n_tiles - first), padded = up_to_multiple(n, kPixelsOfOne);
    for (int b = 0; b < in_blocks; ++b) {
      for (long t = 0; t < n; ++t) {
        const long image = (first + t) / of_image, tile = (first + t) % of_image;
        const int y = static_cast<int>(tile / across) * kTile - 1, x = static_cast<int>(tile % across) * kTile - 1;
        gather_tile(in + image * in_stride + b * size.pixels() * kLanes, size, y, x, v + (b * at_once + t) * kLanes, v_stride);
      }
      // Tiles that only fill up registers: any finite number does.
      for (long t = n; t < padded; ++t)
        for (int f = 0; f < kProducts; ++f) store(v + f * v_stride + (b * at_once + t) * kLanes, all(0));
    }
    for (int k = 0; k < out_blocks; k += kBlocksAtOnce) {
      const bool two = kBlocksAtOnce == 2 && k + 1 < out_blocks;
      for (int f = 0; f < kProducts; ++f) {
        float* here = m + f * m_stride;
        product(o, v + f * v_stride, c.weights + (k * kProducts + f) * n_in * kLanes, padded, two,
                [=](long t, int b, const Lanes& sum) { store(here + (b * at_once + t) * kLanes, sum); });
      }
      for (int b = 0; b < 1 + two; ++b)
        for (long t = 0; t < n; ++t) {
          const long image = (first + t) / of_image, tile = (first + t) % of_image;
          const int y = static_cast<int>(tile / across) * kTile, x = static_cast<int>(tile % across) * kTile;
          const Epilogue here{e.bias, e.addend ? e.addend + image * out_stride : nullptr, e.scale};
          scatter_tile(m + (b * at_once + t) * kLanes, m_stride, size, y, x, k + b, here, out + image * out_stride);
        }
    }
  }
}

}  // namespace
}  // namespace tpdm
