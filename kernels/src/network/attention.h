// Attention, and its pullback: pixels in blocks of 16 take the place of channels.
#pragma once

#include "product.h"

namespace tpdm {
namespace {

// An image with its channels and pixels swapped: [pixel block][channel][16 pixels], zeros beyond the last pixel.
void transpose(const float* in, int channels, long pixels, float* out) {
  const long pixel_blocks = (pixels + kLanes - 1) / kLanes;
  for (long j = 0; j < pixel_blocks; ++j)
    for (int c = 0; c < channels; ++c) {
      const float* source = in + (c / kLanes) * pixels * kLanes + c % kLanes;
      float* target = out + (j * channels + c) * kLanes;
      for (int l = 0; l < kLanes; ++l) target[l] = j * kLanes + l < pixels ? source[(j * kLanes + l) * kLanes] : 0.0f;
    }
}

// out[block][pixel] (+)= scale · Σ_c in[c / 16][pixel][c % 16] · weights[block][c], `stride` floats between blocks of weights.
void mix(const float* in, int channels, long pixels, const float* weights, long stride, int blocks, float scale, bool add,
         float* out) {
  const int segments = blocks_of(channels);
  const int last = channels - (segments - 1) * kLanes;
  long offsets[kMostSegments];
  for (int s = 0; s < segments; ++s) offsets[s] = s * pixels * kLanes;
  const Operands o{offsets, segments, kLanes, last, kLanes, stride};
  for (int b = 0; b < blocks; b += kBlocksAtOnce)
    product(o, in, weights + b * stride, pixels, kBlocksAtOnce == 2 && b + 1 < blocks, [&](long p, int next, const Lanes& sum) {
      put(out + ((b + next) * pixels + p) * kLanes, scale * sum, add);
    });
}

// Rows of softmax in place: `weights` is [block of j][i][16 of j].
void softmax(float* weights, long pixels) {
  const long blocks = (pixels + kLanes - 1) / kLanes;
  Lanes beyond, is_pixel;
  for (int l = 0; l < kLanes; ++l) {
    const bool is = (blocks - 1) * kLanes + l < pixels;
    beyond.set(l, is ? 0.0f : -1e30f);
    is_pixel.set(l, is ? 1.0f : 0.0f);
  }
  for (long i = 0; i < pixels; ++i) {
    float* row = weights + i * kLanes;
    const long step = pixels * kLanes;
    Lanes top = load(row + (blocks - 1) * step) + beyond;
    for (long b = 0; b + 1 < blocks; ++b) top = larger(top, load(row + b * step));
    float most = top[0];
    for (int l = 1; l < kLanes; ++l) most = top[l] > most ? top[l] : most;
    Lanes sums = all(0);
    for (long b = 0; b < blocks; ++b) {
      Lanes v = load(row + b * step);
      if (b + 1 == blocks) v += beyond;
      v = exponential(v - most);
      if (b + 1 == blocks) v *= is_pixel;
      store(row + b * step, v);
      sums += v;
    }
    const float inverse = 1 / sum_of(sums);
    for (long b = 0; b < blocks; ++b) store(row + b * step, inverse * load(row + b * step));
  }
}

struct AttentionSizes {
  long pixels, pixel_blocks, image, matrix;
};

AttentionSizes sizes_of(const Attention& a, ImageSize size) {
  const long pixels = size.pixels(), blocks = (pixels + kLanes - 1) / kLanes;
  // Either order of channels and pixels has to fit.
  const long image = larger(blocks_of(a.channels) * kLanes * pixels, blocks * kLanes * a.channels);
  return {pixels, blocks, image, blocks * kLanes * pixels};
}

long attend_scratch(const Attention& a, ImageSize size, bool pullback) {
  const AttentionSizes s = sizes_of(a, size);
  return pullback ? s.image + 3 * s.matrix : s.image + s.matrix;
}

void attention_weights(const Attention& a, const AttentionSizes& s, const float* q, const float* k, float* transposed,
                       float* weights) {
  transpose(k, a.channels, s.pixels, transposed);
  mix(q, a.channels, s.pixels, transposed, long{a.channels} * kLanes, static_cast<int>(s.pixel_blocks), a.scale, false,
      weights);
  softmax(weights, s.pixels);
}

void attend(const Attention& a, const float* q, const float* k, const float* v, ImageSize size, float* out,
            float* scratch) {
  const AttentionSizes s = sizes_of(a, size);
  float* weights = scratch + s.image;
  attention_weights(a, s, q, k, scratch, weights);
  mix(weights, static_cast<int>(s.pixels), s.pixels, v, s.pixels * kLanes, blocks_of(a.channels), 1.0f, false, out);
}

void attend_pullback(const Attention& a, const float* q, const float* k, const float* v, ImageSize size,
                     const float* out_gradient, bool add_q, float* q_gradient, bool add_k, float* k_gradient, bool add_v,
                     float* v_gradient, float* scratch) {
  const AttentionSizes s = sizes_of(a, size);
  const int blocks = blocks_of(a.channels), pixels = static_cast<int>(s.pixels);
  const long stride = s.pixels * kLanes;
  float* transposed = scratch;
  float* weights = scratch + s.image;
  float* gradient = weights + s.matrix;
  float* turned = gradient + s.matrix;
  attention_weights(a, s, q, k, transposed, weights);

  transpose(weights, pixels, s.pixels, turned);
  mix(turned, pixels, s.pixels, out_gradient, stride, blocks, 1.0f, add_v, v_gradient);

  transpose(v, a.channels, s.pixels, transposed);
  mix(out_gradient, a.channels, s.pixels, transposed, long{a.channels} * kLanes, static_cast<int>(s.pixel_blocks), 1.0f,
      false, gradient);
  for (long i = 0; i < s.pixels; ++i) {
    float* w = weights + i * kLanes;
    float* g = gradient + i * kLanes;
    Lanes sums = all(0);
    for (long b = 0; b < s.pixel_blocks; ++b) sums += load(w + b * stride) * load(g + b * stride);
    const float mean = sum_of(sums);
    for (long b = 0; b < s.pixel_blocks; ++b)
      store(g + b * stride, load(w + b * stride) * (load(g + b * stride) - mean));
  }
  mix(gradient, pixels, s.pixels, k, stride, blocks, a.scale, add_q, q_gradient);
  transpose(gradient, pixels, s.pixels, turned);
  mix(turned, pixels, s.pixels, q, stride, blocks, a.scale, add_k, k_gradient);
}

}  // namespace
}  // namespace tpdm
