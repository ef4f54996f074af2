// Resampling by two and its filter: along rows into a row of scratch, then across.
#pragma once

#include "lanes.h"

namespace tpdm {
namespace {

void down(const float* in, ImageSize size, int blocks, bool fir, float gain, bool add, float* out, float* scratch) {
  const int h = size.height / 2, w = size.width / 2;
  const float outer = fir ? 0.125f : 0.0f, inner = fir ? 0.375f : 0.5f;
  const long row = static_cast<long>(size.width) * kLanes;
  for (int b = 0; b < blocks; ++b)
    for (int y = 0; y < h; ++y) {
      const float* source = in + (static_cast<long>(b) * size.height + 2 * y) * row;
      const bool above = fir && y > 0, below = fir && y + 1 < h;
      for (long i = 0; i < row; i += kLanes) {
        Lanes v = inner * (load(source + i) + load(source + row + i));
        if (above) v += outer * load(source - row + i);
        if (below) v += outer * load(source + 2 * row + i);
        store(scratch + i, v);
      }
      float* target = out + (static_cast<long>(b) * h + y) * w * kLanes;
      for (int x = 0; x < w; ++x) {
        const float* s = scratch + 2L * x * kLanes;
        Lanes v = inner * (load(s) + load(s + kLanes));
        if (fir && x > 0) v += outer * load(s - kLanes);
        if (fir && x + 1 < w) v += outer * load(s + 2 * kLanes);
        put(target + static_cast<long>(x) * kLanes, gain * v, add);
      }
    }
}

void up(const float* in, ImageSize size, int blocks, bool fir, float gain, bool add, float* out, float* scratch) {
  const int h = size.height, w = size.width;
  const float near = fir ? 0.75f : 1.0f, far = fir ? 0.25f : 0.0f;
  const long row = static_cast<long>(w) * kLanes;
  for (int b = 0; b < blocks; ++b)
    for (int y = 0; y < 2 * h; ++y) {
      const int neighbour = y % 2 ? y / 2 + 1 : y / 2 - 1;
      const bool has = fir && neighbour >= 0 && neighbour < h;
      const float* source = in + (static_cast<long>(b) * h + y / 2) * row;
      const float* beside = in + (static_cast<long>(b) * h + (has ? neighbour : y / 2)) * row;
      for (long i = 0; i < row; i += kLanes)
        store(scratch + i, has ? near * load(source + i) + far * load(beside + i) : near * load(source + i));
      float* target = out + (static_cast<long>(b) * 2 * h + y) * 2 * row;
      for (int x = 0; x < w; ++x) {
        const float* s = scratch + static_cast<long>(x) * kLanes;
        Lanes left = near * load(s), right = left;
        if (fir && x > 0) left += far * load(s - kLanes);
        if (fir && x + 1 < w) right += far * load(s + kLanes);
        put(target + 2L * x * kLanes, gain * left, add);
        put(target + (2L * x + 1) * kLanes, gain * right, add);
      }
    }
}

void fir(const float* in, ImageSize size, int blocks, int pad, float gain, bool add, float* out, float* scratch) {
  const int h = size.height + 2 * pad - 3, w = size.width + 2 * pad - 3;
  const float taps[4] = {0.125f, 0.375f, 0.375f, 0.125f};
  const long row = static_cast<long>(size.width) * kLanes;
  for (int b = 0; b < blocks; ++b)
    for (int y = 0; y < h; ++y) {
      for (long i = 0; i < row; i += kLanes) store(scratch + i, all(0));
      for (int t = 0; t < 4; ++t) {
        const int from = y - pad + t;
        if (from < 0 || from >= size.height) continue;
        const float* source = in + (static_cast<long>(b) * size.height + from) * row;
        for (long i = 0; i < row; i += kLanes) store(scratch + i, load(scratch + i) + taps[t] * load(source + i));
      }
      float* target = out + (static_cast<long>(b) * h + y) * w * kLanes;
      for (int x = 0; x < w; ++x) {
        Lanes v = all(0);
        for (int t = 0; t < 4; ++t) {
          const int from = x - pad + t;
          if (from >= 0 && from < size.width) v += taps[t] * load(scratch + static_cast<long>(from) * kLanes);
        }
        put(target + static_cast<long>(x) * kLanes, gain * v, add);
      }
    }
}

}  // namespace
}  // namespace tpdm
