// The layers of a score network on a CPU, as a table of functions that is compiled once for every instruction set.
//
// An image of c channels is stored in blocks of 16: [ceil(c / 16)][height][width][16] float32, so that a vector holds 16
// channels of one pixel and neither borders nor small images break vectors. Channels that fill the last block up have
// weights of zero; their values are finite and never used.
#pragma once

namespace tpdm {

constexpr int kLanes = 16;
// What the kernels have room for on their stacks; a network with more is refused.
constexpr int kMostChannels = 4096, kMostSegments = 1024;

static inline int blocks_of(int channels) { return (channels + kLanes - 1) / kLanes; }

struct ImageSize {
  int height, width;
  // Always inlined: no version of it, compiled for one processor, may end up as everybody's.
  __attribute__((always_inline)) long pixels() const { return static_cast<long>(height) * width; }
};

// What a convolution does to its sums before it stores them: out = sum + bias + scale · addend.
struct Epilogue {
  const float* bias;    // [blocks of 16] or null
  const float* addend;  // an image like out, or null; may be out itself
  float scale;
};

// A convolution as a sum over segments of 16 input channels of one kernel tap.
struct DirectConvolution {
  int in_channels;  // fewer than 16: only these lanes are read
  int out_channels;
  int kernel;
  int stride;
  // The input is spread by `dilation` and moved by (top, left) pixels into a frame of zeros before anything is summed up: the
  // pullback of a strided convolution reads its gradient with gaps.
  int dilation, top, left;
  const float* weights;  // [out block][in block][row][column][lane of in block][16]
};

struct WinogradConvolution {
  int in_channels, out_channels;
  const float* weights;  // [out block][36][in channel, whole blocks][16]
};

struct GroupNormalisation {
  int channels, n_groups;
  const int* group_of;  // [blocks of 16] group of every channel, -1 beyond the last one
  const float* weight;  // [blocks of 16]
  const float* bias;    // [blocks of 16]
  float eps;
  bool silu;
};

struct Attention {
  int channels;
  float scale;
};

struct Layers {
  const char* name;

  // 3×3, stride 1, zeros around: F(4×4, 3×3), of images that lie one after the other: small ones share the weights that are
  // brought from memory. `scratch` holds winograd_scratch floats.
  void (*winograd)(const WinogradConvolution&, int n_images, const float* in, ImageSize, const Epilogue&, float* out,
                   float* scratch);
  long (*winograd_scratch)(const WinogradConvolution&, int n_images, ImageSize);
  // From [out block][in channel, whole blocks][9][16] to the transformed weights.
  void (*winograd_weights)(const float* taps, int in_channels, int out_channels, float* weights);

  void (*direct)(const DirectConvolution&, const float* in, ImageSize in_size, const Epilogue&, float* out,
                 ImageSize out_size, float* scratch);
  long (*direct_scratch)(const DirectConvolution&, ImageSize in_size, ImageSize out_size);

  // mean and rstd: [blocks of 16], of each channel's group.
  void (*norm)(const GroupNormalisation&, const float* in, ImageSize, float* mean, float* rstd, float* out);
  // gradient (+)= pullback of out_gradient; `scratch` is an image.
  void (*norm_pullback)(const GroupNormalisation&, const float* in, ImageSize, const float* mean, const float* rstd,
                        const float* out_gradient, bool add, float* gradient, float* scratch);

  // Halve or double both sides with the taps (1, 3, 3, 1) / 8, or (1, 1) / 2 for a box; times gain.
  void (*down)(const float* in, ImageSize in_size, int blocks, bool fir, float gain, bool add, float* out, float* scratch);
  void (*up)(const float* in, ImageSize in_size, int blocks, bool fir, float gain, bool add, float* out, float* scratch);
  // Filter with (1, 3, 3, 1) / 8 along both sides, `pad` zeros around.
  void (*fir)(const float* in, ImageSize in_size, int blocks, int pad, float gain, bool add, float* out, float* scratch);

  // softmax(scale · qᵀ k) applied to v.
  void (*attend)(const Attention&, const float* q, const float* k, const float* v, ImageSize, float* out, float* scratch);
  void (*attend_pullback)(const Attention&, const float* q, const float* k, const float* v, ImageSize,
                          const float* out_gradient, bool add_q, float* q_gradient, bool add_k, float* k_gradient,
                          bool add_v, float* v_gradient, float* scratch);
  long (*attend_scratch)(const Attention&, ImageSize, bool pullback);

  // out = a · x + b · y + c, n floats; y may be null, and out either of them.
  void (*combine)(const float* x, float a, const float* y, float b, float c, long n, float* out);
};

extern const Layers layers_baseline;
extern const Layers layers_avx2;
extern const Layers layers_avx512;

}  // namespace tpdm
