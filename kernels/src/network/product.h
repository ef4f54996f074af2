// Products of pixels and weights with their sums in registers: what every convolution and attention end in.
#pragma once

#include "lanes.h"

namespace tpdm {
namespace {

// Pixels and blocks of output channels that one tile of a product keeps in registers.
#if defined(__AVX512F__)
constexpr int kBlocksAtOnce = 2, kPixelsOfTwo = 8, kPixelsOfOne = 16;
#elif defined(__AVX2__)
constexpr int kBlocksAtOnce = 1, kPixelsOfTwo = 4, kPixelsOfOne = 4;
#else
constexpr int kBlocksAtOnce = 1, kPixelsOfTwo = 2, kPixelsOfOne = 2;
#endif

// The operands of a product: at pixel p, Σ over segments s and lanes c of in[offset[s] + p · step + c] · weights[s][c][16].
struct Operands {
  const long* offsets;
  int n_segments;
  int lanes;       // of a segment,
  int last_lanes;  // of the last one
  long step;
  long weights_of_block;  // floats from one block of output channels to the next
};

template <int kPixels, int kBlocks>
inline void multiply(const Operands& o, const float* in, const float* weights, Lanes (&sums)[kBlocks][kPixels]) {
  for (int b = 0; b < kBlocks; ++b)
    for (int p = 0; p < kPixels; ++p) sums[b][p] = all(0);
  for (int s = 0; s < o.n_segments; ++s) {
    const float* segment = in + o.offsets[s];
    const int lanes = s + 1 < o.n_segments ? o.lanes : o.last_lanes;
    for (int c = 0; c < lanes; ++c) {
      Lanes w[kBlocks];
      for (int b = 0; b < kBlocks; ++b) w[b] = load(weights + b * o.weights_of_block);
      weights += kLanes;
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const Lanes x = all(segment[p * o.step + c]);
        for (int b = 0; b < kBlocks; ++b) sums[b][p] += x * w[b];
      }
    }
  }
}

// Call finish(first pixel + p, block, sums) for n pixels of kBlocks blocks.
template <int kPixels, int kBlocks, typename Finish>
inline void product_of_blocks(const Operands& o, const float* in, const float* weights, long n, const Finish& finish) {
  Lanes sums[kBlocks][kPixels];
  long p = 0;
  for (; p + kPixels <= n; p += kPixels) {
    multiply<kPixels, kBlocks>(o, in + p * o.step, weights, sums);
    for (int b = 0; b < kBlocks; ++b)
      for (int i = 0; i < kPixels; ++i) finish(p + i, b, sums[b][i]);
  }
  Lanes single[kBlocks][1];
  for (; p < n; ++p) {
    multiply<1, kBlocks>(o, in + p * o.step, weights, single);
    for (int b = 0; b < kBlocks; ++b) finish(p, b, single[b][0]);
  }
}

template <typename Finish>
inline void product(const Operands& o, const float* in, const float* weights, long n, bool two, const Finish& finish) {
  if (kBlocksAtOnce == 2 && two)
    product_of_blocks<kPixelsOfTwo, 2>(o, in, weights, n, finish);
  else
    product_of_blocks<kPixelsOfOne, 1>(o, in, weights, n, finish);
}

inline Lanes finished(Lanes sum, const Epilogue& e, long at, long block) {
  if (e.bias) sum += load(e.bias + block * kLanes);
  if (e.addend) sum += e.scale * load(e.addend + at);
  return sum;
}

}  // namespace
}  // namespace tpdm
