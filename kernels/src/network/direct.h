// Convolutions of any kernel and stride, summed up tap by tap.
#pragma once

#include "product.h"

namespace tpdm {
namespace {

struct Frame {
  int height, width;
};

Frame frame_of(const DirectConvolution& c, ImageSize out_size) {
  return {(out_size.height - 1) * c.stride + c.kernel, (out_size.width - 1) * c.stride + c.kernel};
}

bool needs_frame(const DirectConvolution& c, ImageSize in_size, ImageSize out_size) {
  const Frame f = frame_of(c, out_size);
  return c.dilation != 1 || c.top != 0 || c.left != 0 || f.height > in_size.height || f.width > in_size.width;
}

long direct_scratch(const DirectConvolution& c, ImageSize in_size, ImageSize out_size) {
  const Frame f = frame_of(c, out_size);
  return needs_frame(c, in_size, out_size) ? static_cast<long>(f.height) * f.width * blocks_of(c.in_channels) * kLanes : 0;
}

void fill_frame(const DirectConvolution& c, const float* in, ImageSize size, Frame f, float* out) {
  const int blocks = blocks_of(c.in_channels);
  std::memset(out, 0, sizeof(float) * kLanes * blocks * f.height * f.width);
  for (int b = 0; b < blocks; ++b)
    for (int y = 0; y < size.height; ++y) {
      const int to = c.top + y * c.dilation;
      if (to < 0 || to >= f.height) continue;
      for (int x = 0; x < size.width; ++x) {
        const int at = c.left + x * c.dilation;
        if (at < 0 || at >= f.width) continue;
        store(out + ((static_cast<long>(b) * f.height + to) * f.width + at) * kLanes,
              load(in + ((static_cast<long>(b) * size.height + y) * size.width + x) * kLanes));
      }
    }
}

// One output channel: lanes are input channels, summed up at the end.
void direct_to_one(const DirectConvolution& c, const float* in, ImageSize in_size, const Epilogue& e, float* out,
                   ImageSize out_size) {
  const int blocks = blocks_of(c.in_channels), k = c.kernel;
  const float* weights = c.weights;  // [block][row][column][lane]
  for (int y = 0; y < out_size.height; ++y)
    for (int x = 0; x < out_size.width; ++x) {
      Lanes sums[3] = {all(0), all(0), all(0)};
      for (int b = 0; b < blocks; ++b)
        for (int i = 0; i < k; ++i) {
          const float* row =
              in + ((static_cast<long>(b) * in_size.height + y * c.stride + i) * in_size.width + x * c.stride) * kLanes;
          for (int j = 0; j < k; ++j) sums[j % 3] += load(row + j * kLanes) * load(weights + ((b * k + i) * k + j) * kLanes);
        }
      Lanes value = all(0);
      value.set(0, sum_of(sums[0] + sums[1] + sums[2]));
      const long at = (static_cast<long>(y) * out_size.width + x) * kLanes;
      store(out + at, finished(value, e, at, 0));
    }
}

void direct(const DirectConvolution& c, const float* in, ImageSize in_size, const Epilogue& e, float* out,
            ImageSize out_size, float* scratch) {
  if (needs_frame(c, in_size, out_size)) {
    const Frame f = frame_of(c, out_size);
    fill_frame(c, in, in_size, f, scratch);
    in = scratch;
    in_size = {f.height, f.width};
  }
  if (c.out_channels == 1) return direct_to_one(c, in, in_size, e, out, out_size);

  const int in_blocks = blocks_of(c.in_channels), out_blocks = blocks_of(c.out_channels), k = c.kernel;
  const int lanes = c.in_channels < kLanes ? c.in_channels : kLanes;
  long offsets[kMostSegments];
  int n = 0;
  for (int b = 0; b < in_blocks; ++b)
    for (int i = 0; i < k; ++i)
      for (int j = 0; j < k; ++j)
        offsets[n++] = ((static_cast<long>(b) * in_size.height + i) * in_size.width + j) * kLanes;
  const Operands o{offsets, n, lanes, lanes, long{kLanes} * c.stride, long{n} * lanes * kLanes};
  // Without borders or strides the rows of an image are one long row.
  const bool is_flat = k == 1 && c.stride == 1 && in_size.width == out_size.width;
  const int rows = is_flat ? 1 : out_size.height;
  const long width = is_flat ? out_size.pixels() : out_size.width;
  for (int b = 0; b < out_blocks; b += kBlocksAtOnce) {
    const bool two = kBlocksAtOnce == 2 && b + 1 < out_blocks;
    for (int y = 0; y < rows; ++y)
      product(o, in + static_cast<long>(y) * c.stride * in_size.width * kLanes, c.weights + b * o.weights_of_block, width,
              two, [&](long x, int next, const Lanes& sum) {
                const long at = ((b + next) * out_size.pixels() + y * width + x) * kLanes;
                store(out + at, finished(sum, e, at, b + next));
              });
  }
}

}  // namespace
}  // namespace tpdm
