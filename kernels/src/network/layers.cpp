// Compiled once for every instruction set, which TPDM_LAYERS names. Everything here has internal linkage and no
// template of the standard library is used: the linker must never put another file's function in an AVX-512 version.
#include "layers.h"

#include <cstring>

namespace tpdm {
namespace {

// 16 floats in as many registers as the instruction set needs for them. A single vector type of 64 bytes would do, but compilers
// take one that no register can hold through memory.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;
typedef float Part __attribute__((vector_size(4 * kWidth)));
typedef int IntPart __attribute__((vector_size(4 * kWidth)));

struct Lanes {
  Part parts[kParts];
  float operator[](int l) const { return parts[l / kWidth][l % kWidth]; }
  void set(int l, float value) { parts[l / kWidth][l % kWidth] = value; }
};

#define TPDM_EACH_PART for (int i = 0; i < kParts; ++i)
#define TPDM_OPERATOR(op)                                   \
  inline Lanes operator op(const Lanes& a, const Lanes& b) { \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a.parts[i] op b.parts[i];   \
    return c;                                               \
  }                                                         \
  inline Lanes operator op(float a, const Lanes& b) {       \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a op b.parts[i];            \
    return c;                                               \
  }                                                         \
  inline Lanes operator op(const Lanes& a, float b) {       \
    Lanes c;                                                \
    TPDM_EACH_PART c.parts[i] = a.parts[i] op b;            \
    return c;                                               \
  }
TPDM_OPERATOR(+)
TPDM_OPERATOR(-)
TPDM_OPERATOR(*)
TPDM_OPERATOR(/)

inline void operator+=(Lanes& a, const Lanes& b) { a = a + b; }
inline void operator*=(Lanes& a, const Lanes& b) { a = a * b; }

inline Lanes larger(const Lanes& a, const Lanes& b) {
  Lanes c;
  TPDM_EACH_PART c.parts[i] = a.parts[i] > b.parts[i] ? a.parts[i] : b.parts[i];
  return c;
}

inline Lanes load(const float* p) {
  Lanes v;
  TPDM_EACH_PART std::memcpy(&v.parts[i], p + i * kWidth, sizeof(Part));
  return v;
}

inline void store(float* p, const Lanes& v) { TPDM_EACH_PART std::memcpy(p + i * kWidth, &v.parts[i], sizeof(Part)); }

inline Lanes all(float value) {
  Lanes v;
  TPDM_EACH_PART v.parts[i] = value - Part{};
  return v;
}

inline float sum_of(const Lanes& v) {
  float values[kLanes];
  store(values, v);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int l = 0; l < n; ++l) values[l] += values[l + n];
  return values[0];
}

// Add to 16 sums in float64.
inline void add_to(double* sums, const Lanes& v) {
  for (int l = 0; l < kLanes; ++l) sums[l] += v[l];
}

inline long smaller(long a, long b) { return a < b ? a : b; }
inline long larger(long a, long b) { return a < b ? b : a; }
inline long up_to_multiple(long a, long b) { return (a + b - 1) / b * b; }

// Pixels and blocks of output channels that one tile of a product keeps in registers.
#if defined(__AVX512F__)
constexpr int kBlocksAtOnce = 2, kPixelsOfTwo = 8, kPixelsOfOne = 16;
#elif defined(__AVX2__)
constexpr int kBlocksAtOnce = 1, kPixelsOfTwo = 4, kPixelsOfOne = 4;
#else
constexpr int kBlocksAtOnce = 1, kPixelsOfTwo = 2, kPixelsOfOne = 2;
#endif

// ---- products

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

// ---- Winograd's F(4×4, 3×3), on the points 0, ±√½, ±√2, ∞
//
// Half the rounding error of the usual 0, ±1, ±2, ∞: no power of a point is large. Source: Lavin & Gray, Fast algorithms for
// convolutional neural networks, 2016; the choice of points after Barabasz et al., Error analysis and improving the accuracy of
// Winograd convolution, 2020.

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
  long offsets[4096 / kLanes];  // network.cpp refuses more channels
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

// ---- direct convolution

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
  long offsets[16384 / kLanes];
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

// ---- group normalisation and SiLU

inline Part exponential(Part x) {
  // 2^(x / ln 2), split at the nearest integer; the polynomial is the Taylor series to the sixth power, whose rest is below
  // one unit in the last place on ±ln 2 / 2.
  const Part low = -87.0f - Part{}, high = 88.0f - Part{}, magic = 12582912.0f - Part{};
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Part n = (x * 1.44269504088896f + magic) - magic;
  const Part r = x - n * 0.693359375f - n * -2.12194440e-4f;
  Part p = r * (1.0f / 720) + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntPart power = (__builtin_convertvector(n, IntPart) + 127) << 23;
  Part scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

inline Lanes exponential(const Lanes& x) {
  Lanes e;
  TPDM_EACH_PART e.parts[i] = exponential(x.parts[i]);
  return e;
}

inline Lanes sigmoid(const Lanes& x) { return 1.0f / (1.0f + exponential(0.0f - x)); }

// Sums of float32 over many pixels: short runs in float32, runs in float64.
constexpr long kRun = 128;

template <typename Term>
inline void total(long n, double* sums, const Term& term) {
  for (int l = 0; l < kLanes; ++l) sums[l] = 0;
  for (long first = 0; first < n; first += kRun) {
    const long last = smaller(first + kRun, n);
    Lanes a = all(0), b = all(0);
    long p = first;
    for (; p + 2 <= last; p += 2) {
      a += term(p);
      b += term(p + 1);
    }
    if (p < last) a += term(p);
    add_to(sums, a + b);
  }
}

// Turn sums per channel, [blocks of 16] in `sums`, into the means of their groups.
void mean_of_groups(const GroupNormalisation& g, ImageSize size, double* sums, double* groups) {
  const int n = blocks_of(g.channels) * kLanes;
  for (int i = 0; i < g.n_groups; ++i) groups[i] = 0;
  for (int c = 0; c < n; ++c)
    if (g.group_of[c] >= 0) groups[g.group_of[c]] += sums[c];
  const double count = static_cast<double>(g.channels / g.n_groups) * static_cast<double>(size.pixels());
  for (int c = 0; c < n; ++c) sums[c] = g.group_of[c] >= 0 ? groups[g.group_of[c]] / count : 0;
}

constexpr int kMostChannels = 4096;

inline double root(double x) {
  // sqrt as an instruction: <cmath> would bring functions of other files with it.
  return __builtin_sqrt(x);
}

void norm(const GroupNormalisation& g, const float* in, ImageSize size, float* mean, float* rstd, float* out) {
  const int blocks = blocks_of(g.channels);
  const long n = size.pixels();
  double sums[kMostChannels], groups[kMostChannels];
  for (int b = 0; b < blocks; ++b) {
    const float* x = in + b * n * kLanes;
    total(n, sums + b * kLanes, [=](long p) { return load(x + p * kLanes); });
  }
  mean_of_groups(g, size, sums, groups);
  for (int c = 0; c < blocks * kLanes; ++c) mean[c] = static_cast<float>(sums[c]);
  for (int b = 0; b < blocks; ++b) {
    const float* x = in + b * n * kLanes;
    const Lanes m = load(mean + b * kLanes);
    total(n, sums + b * kLanes, [=](long p) {
      const Lanes d = load(x + p * kLanes) - m;
      return d * d;
    });
  }
  mean_of_groups(g, size, sums, groups);
  for (int c = 0; c < blocks * kLanes; ++c)
    rstd[c] = g.group_of[c] >= 0 ? static_cast<float>(1 / root(sums[c] + g.eps)) : 0.0f;
  for (int b = 0; b < blocks; ++b) {
    const float* x = in + b * n * kLanes;
    float* y = out + b * n * kLanes;
    const Lanes m = load(mean + b * kLanes), a = load(rstd + b * kLanes) * load(g.weight + b * kLanes);
    const Lanes bias = load(g.bias + b * kLanes);
    if (g.silu) {
      for (long p = 0; p < n; ++p) {
        const Lanes u = (load(x + p * kLanes) - m) * a + bias;
        store(y + p * kLanes, u * sigmoid(u));
      }
    } else {
      for (long p = 0; p < n; ++p) store(y + p * kLanes, (load(x + p * kLanes) - m) * a + bias);
    }
  }
}

void norm_pullback(const GroupNormalisation& g, const float* in, ImageSize size, const float* mean, const float* rstd,
                   const float* out_gradient, bool add, float* gradient, float* scratch) {
  const int blocks = blocks_of(g.channels);
  const long n = size.pixels();
  double along[kMostChannels], plain[kMostChannels], groups[kMostChannels];
  for (int b = 0; b < blocks; ++b) {
    const float* x = in + b * n * kLanes;
    const float* dy = out_gradient + b * n * kLanes;
    float* scaled = scratch + b * n * kLanes;
    const Lanes m = load(mean + b * kLanes), a = load(rstd + b * kLanes) * load(g.weight + b * kLanes);
    const Lanes bias = load(g.bias + b * kLanes);
    for (int l = 0; l < kLanes; ++l) plain[b * kLanes + l] = along[b * kLanes + l] = 0;
    for (long first = 0; first < n; first += kRun) {
      Lanes s = all(0), t = all(0);
      for (long p = first; p < smaller(first + kRun, n); ++p) {
        const Lanes centred = load(x + p * kLanes) - m;
        Lanes d = load(dy + p * kLanes) * a;
        if (g.silu) {
          const Lanes u = centred * a + bias, gate = sigmoid(u);
          d *= gate * (1.0f + u * (1.0f - gate));
        }
        store(scaled + p * kLanes, d);
        s += d;
        t += d * centred;
      }
      add_to(plain + b * kLanes, s);
      add_to(along + b * kLanes, t);
    }
  }
  mean_of_groups(g, size, plain, groups);
  mean_of_groups(g, size, along, groups);
  for (int b = 0; b < blocks; ++b) {
    const float* x = in + b * n * kLanes;
    const float* scaled = scratch + b * n * kLanes;
    float* dx = gradient + b * n * kLanes;
    const Lanes m = load(mean + b * kLanes), r = load(rstd + b * kLanes);
    Lanes shift, slope;
    for (int l = 0; l < kLanes; ++l) {
      shift.set(l, static_cast<float>(plain[b * kLanes + l]));
      slope.set(l, static_cast<float>(along[b * kLanes + l]));
    }
    slope *= r * r;
    if (add) {
      for (long p = 0; p < n; ++p) {
        const Lanes d = load(scaled + p * kLanes) - shift - (load(x + p * kLanes) - m) * slope;
        store(dx + p * kLanes, load(dx + p * kLanes) + d);
      }
    } else {
      for (long p = 0; p < n; ++p)
        store(dx + p * kLanes, load(scaled + p * kLanes) - shift - (load(x + p * kLanes) - m) * slope);
    }
  }
}

// ---- resampling by two, along rows into a row of scratch, then across

inline void put(float* p, const Lanes& v, bool add) { store(p, add ? load(p) + v : v); }

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

// ---- attention: pixels in blocks of 16 take the place of channels

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
  long offsets[16384 / kLanes];
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

void combine(const float* x, float a, const float* y, float b, float c, long n, float* out) {
  for (long i = 0; i < n; i += kLanes) {
    Lanes v = a * load(x + i) + c;
    if (y) v += b * load(y + i);
    store(out + i, v);
  }
}

}  // namespace

#define TPDM_JOIN(a, b) a##b
#define TPDM_TABLE(name) TPDM_JOIN(layers_, name)
#define TPDM_STRING(x) #x
#define TPDM_NAME(x) TPDM_STRING(x)

const Layers TPDM_TABLE(TPDM_LAYERS) = {
    TPDM_NAME(TPDM_LAYERS), winograd, winograd_scratch, winograd_weights, direct, direct_scratch,  norm,
    norm_pullback,          down,     up,               fir,              attend, attend_pullback, attend_scratch,
    combine,
};

}  // namespace tpdm
