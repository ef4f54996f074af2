// A score network as a list of layers, run forward and backward on one image at a time.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "layers.h"

namespace tpdm {

// Channels with those that fill the last block up.
inline int padded(int channels) { return blocks_of(channels) * kLanes; }

[[noreturn]] inline void refuse(const std::string& message) { throw std::invalid_argument(message); }

const Layers& best_layers();  // that this processor can run
const std::vector<const Layers*>& usable_layers();

// Memory that starts at a page, without an initial value.
class Memory {
 public:
  explicit Memory(long floats = 0);
  float* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
};

enum class Kind { conv, norm, down, up, fir, stuff, cat, attend, add, affine };

// One layer; what its fields mean depends on the kind.
struct Layer {
  Kind kind;
  std::vector<int> in;  // images; a convolution's second one is its addend
  int out;
  // conv
  int kernel = 0, stride = 1, pad = 0, vector = -1;
  float addend_scale = 1;
  std::vector<float> bias;
  std::vector<float> taps, back_taps;        // as the direct kernel reads them, or Winograd's before their transform
  std::vector<float> products, back_products;  // Winograd's after it, unless made at every call
  // norm
  int n_groups = 1, norm_index = -1;
  bool silu = false;
  float eps = 0;
  std::vector<int> group_of;
  std::vector<float> weight;
  // down, up, fir, affine, attend
  bool is_fir = false;
  float mul = 1, add = 0;
};

// A vector that depends on the noise level alone.
struct VectorLayer {
  enum class Kind { fourier, dense, silu } kind;
  int in;
  std::vector<float> weight, bias;  // dense: [out][in]
};

class Network {
 public:
  Network(std::vector<int> channels, int sigma_power, const Layers& layers, long transformed_bytes);

  void add_fourier(std::vector<float> frequencies);
  void add_dense(int in, std::vector<float> weight, std::vector<float> bias);
  void add_silu(int in);
  void add_conv(std::vector<int> in, int out, const float* weight, int kernel, std::vector<float> bias, int stride, int pad,
                int vector, float addend_scale);
  void add_norm(int in, int out, const float* weight, const float* bias, int n_groups, float eps, bool silu);
  void add_simple(Kind kind, std::vector<int> in, int out, bool is_fir, int pad, float mul, float add);
  // All layers are there; `output` is the image that the network returns.
  void finish(int output);

  const std::vector<int>& channels() const { return channels_; }
  const Layers& layers() const { return *layers_; }
  bool keeps_transforms() const { return keeps_transforms_; }

 private:
  friend class Workspace;
  bool is_winograd(const Layer&) const;
  void check_image(int image, const char* what) const;
  Layer& next(Kind kind, std::vector<int> in, int out);

  std::vector<int> channels_;
  int sigma_power_, output_ = -1, n_norms_ = 0;
  const Layers* layers_;
  long transformed_bytes_;
  bool keeps_transforms_ = false;
  std::vector<Layer> images_;
  std::vector<VectorLayer> vectors_;
  std::vector<int> vector_sizes_;
};

// Memory for up to n images of a given size: values, gradients and what the layers need besides. One thread at a time.
class Workspace {
 public:
  // Without memory it only knows how much it would need.
  Workspace(std::shared_ptr<const Network> network, int n_images, ImageSize size, bool with_pullback,
            bool with_memory = true);

  // x̂₀ = x + σ^p · network(x, σ), float32 [n][height][width].
  void denoise(const float* x, int n, float sigma, float* x0);
  // (∂x̂₀/∂x)ᵀ · cotangent where `denoise` was called last; once for every such call, and of as many images.
  void pullback(const float* cotangent, int n, float* out);

  int n_images() const { return most_; }
  ImageSize size() const { return sizes_[0]; }
  bool with_pullback() const { return with_pullback_; }
  long bytes() const;

 private:
  void plan_sizes();
  void plan_arena();
  void plan_scratch();
  void need_scratch(long floats) { scratch_floats_ = floats > scratch_floats_ ? floats : scratch_floats_; }
  void set_sigma(float sigma);
  void forward(const Layer&, int index);
  void backward(const Layer&, int index);
  void convolve(const Layer&, bool back, const float* in, ImageSize in_size, const Epilogue&, float* out, ImageSize out_size);
  // Of the i-th image of the stack; the others follow.
  float* value(int image, int i = 0) { return arena_.data() + value_at_[image] + i * floats_of(image); }
  float* gradient(int image, int i = 0) { return arena_.data() + gradient_at_[image] + i * floats_of(image); }
  long floats_of(int image) const;

  std::shared_ptr<const Network> network_;
  int most_, n_ = 0;  // images: that there is room for, and of this call
  bool with_pullback_, is_ready_ = false;
  float sigma_ = -1, factor_ = 0;
  std::vector<ImageSize> sizes_;
  std::vector<long> value_at_, gradient_at_;
  std::vector<std::vector<char>> adds_;  // per layer and input: its gradient holds another consumer's share already
  long arena_floats_ = 0, scratch_floats_ = 0;
  Memory arena_, scratch_;
  std::vector<std::vector<float>> vectors_, biases_;
  std::vector<std::vector<float>> mean_, rstd_;  // per normalisation, of all images
};

}  // namespace tpdm
