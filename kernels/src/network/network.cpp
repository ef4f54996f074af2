// What a network is made of: its layers, checked and with their weights as the kernels read them.
#include "network.h"

#include <algorithm>

namespace tpdm {
namespace {

// From [out][in][k][k] to [out block][in block][row][column][lane of in][lane of out]; `back` swaps in and out and flips rows and
// columns, as the pullback needs it.
std::vector<float> arranged(const float* weight, int n_out, int n_in, int k, bool back) {
  const int to = back ? n_in : n_out, from = back ? n_out : n_in;
  if (to == 1) {
    std::vector<float> taps(static_cast<size_t>(padded(from)) * k * k);
    for (int c = 0; c < from; ++c)
      for (int i = 0; i < k * k; ++i) {
        const int tap = back ? k * k - 1 - i : i;
        taps[(static_cast<size_t>(c / kLanes) * k * k + i) * kLanes + c % kLanes] = weight[c * k * k + tap];
      }
    return taps;
  }
  const int lanes = std::min(from, kLanes), from_blocks = blocks_of(from);
  std::vector<float> taps(static_cast<size_t>(padded(to)) * from_blocks * lanes * k * k);
  for (int t = 0; t < to; ++t)
    for (int f = 0; f < from; ++f)
      for (int i = 0; i < k * k; ++i) {
        const int tap = back ? k * k - 1 - i : i;
        const int o = back ? f : t, c = back ? t : f;
        const size_t at = ((static_cast<size_t>(t / kLanes) * from_blocks + f / kLanes) * k * k + i) * lanes + f % kLanes;
        taps[at * kLanes + t % kLanes] = weight[(static_cast<size_t>(o) * n_in + c) * k * k + tap];
      }
  return taps;
}

// From [out][in][3][3] to [out block][in channel, whole blocks][9][lane of out].
std::vector<float> arranged_for_winograd(const float* weight, int n_out, int n_in, bool back) {
  const int to = back ? n_in : n_out, from = back ? n_out : n_in;
  std::vector<float> taps(static_cast<size_t>(padded(to)) * padded(from) * 9);
  for (int t = 0; t < to; ++t)
    for (int f = 0; f < from; ++f)
      for (int i = 0; i < 9; ++i) {
        const int o = back ? f : t, c = back ? t : f;
        taps[((static_cast<size_t>(t / kLanes) * padded(from) + f) * 9 + i) * kLanes + t % kLanes] =
            weight[(static_cast<size_t>(o) * n_in + c) * 9 + (back ? 8 - i : i)];
      }
  return taps;
}

std::vector<float> with_whole_blocks(const float* values, int n) {
  std::vector<float> out(padded(n));
  std::copy(values, values + n, out.begin());
  return out;
}

}  // namespace

const std::vector<const Layers*>& usable_layers() {
  static const std::vector<const Layers*> usable = [] {
    std::vector<const Layers*> list;
#ifdef TPDM_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      list.push_back(&layers_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(&layers_avx2);
#endif
    list.push_back(&layers_baseline);
    return list;
  }();
  return usable;
}

const Layers& best_layers() { return *usable_layers().front(); }

Network::Network(std::vector<int> channels, int sigma_power, const Layers& layers, long transformed_bytes)
    : channels_(std::move(channels)), sigma_power_(sigma_power), layers_(&layers), transformed_bytes_(transformed_bytes) {
  if (channels_.empty() || channels_[0] != 1) refuse("channels: expected 1 for the noisy image, first");
  for (int n : channels_)
    if (n < 1 || n > kMostChannels) refuse("channels: expected 1 to 4096, got " + std::to_string(n));
  if (sigma_power != 1 && sigma_power != 2) refuse("sigma_power: expected 1 or 2, got " + std::to_string(sigma_power));
}

void Network::check_image(int image, const char* what) const {
  if (image < 0 || image >= static_cast<int>(channels_.size()))
    refuse(std::string(what) + ": expected the number of an image, got " + std::to_string(image));
}

Layer& Network::next(Kind kind, std::vector<int> in, int out) {
  for (int image : in) {
    check_image(image, "in");
    const bool is_made =
        image == 0 || std::any_of(images_.begin(), images_.end(), [image](const Layer& l) { return l.out == image; });
    if (!is_made) refuse("in: expected an image of an earlier layer, got " + std::to_string(image));
  }
  check_image(out, "out");
  if (out == 0 || std::any_of(images_.begin(), images_.end(), [out](const Layer& l) { return l.out == out; }))
    refuse("out: expected an image that no other layer makes, got " + std::to_string(out));
  Layer layer{};
  layer.kind = kind;
  layer.in = std::move(in);
  layer.out = out;
  images_.push_back(std::move(layer));
  return images_.back();
}

void Network::add_fourier(std::vector<float> frequencies) {
  vector_sizes_.push_back(2 * static_cast<int>(frequencies.size()));
  vectors_.push_back({VectorLayer::Kind::fourier, -1, std::move(frequencies), {}});
}

void Network::add_dense(int in, std::vector<float> weight, std::vector<float> bias) {
  if (in < 0 || in >= static_cast<int>(vectors_.size())) refuse("in: expected an earlier vector, got " + std::to_string(in));
  if (weight.size() != bias.size() * vector_sizes_[in]) refuse("weight: expected (out, in) values");
  vector_sizes_.push_back(static_cast<int>(bias.size()));
  vectors_.push_back({VectorLayer::Kind::dense, in, std::move(weight), std::move(bias)});
}

void Network::add_silu(int in) {
  if (in < 0 || in >= static_cast<int>(vectors_.size())) refuse("in: expected an earlier vector, got " + std::to_string(in));
  vector_sizes_.push_back(vector_sizes_[in]);
  vectors_.push_back({VectorLayer::Kind::silu, in, {}, {}});
}

bool Network::is_winograd(const Layer& l) const {
  // One channel, in or out, is too little work to pay for the transforms.
  return l.kernel == 3 && l.stride == 1 && l.pad == 1 && channels_[l.in[0]] > 1 && channels_[l.out] > 1;
}

void Network::add_conv(std::vector<int> in, int out, const float* weight, int kernel, std::vector<float> bias, int stride,
                       int pad, int vector, float addend_scale) {
  if (in.empty() || in.size() > 2) refuse("in: expected an image and at most one addend");
  if (kernel < 1 || stride < 1 || stride > 2 || pad < 0 || pad >= kernel) refuse("conv: kernel, stride or padding out of range");
  Layer& l = next(Kind::conv, std::move(in), out);
  const int n_in = channels_[l.in[0]], n_out = channels_[out];
  if (static_cast<int>(bias.size()) != n_out) refuse("bias: expected one value for each output channel");
  if (l.in.size() == 2 && channels_[l.in[1]] != n_out) refuse("addend: expected as many channels as the result");
  if (vector >= static_cast<int>(vectors_.size()) || (vector >= 0 && vector_sizes_[vector] != n_out))
    refuse("vector: expected one of as many values as the result has channels");
  l.kernel = kernel;
  l.stride = stride;
  l.pad = pad;
  l.vector = vector;
  l.addend_scale = addend_scale;
  l.bias = with_whole_blocks(bias.data(), n_out);
  if (is_winograd(l)) {
    l.taps = arranged_for_winograd(weight, n_out, n_in, false);
    l.back_taps = arranged_for_winograd(weight, n_out, n_in, true);
  } else {
    if (blocks_of(std::max(n_in, n_out)) * kernel * kernel > kMostSegments) refuse("conv: too many channels and taps");
    l.taps = arranged(weight, n_out, n_in, kernel, false);
    l.back_taps = arranged(weight, n_out, n_in, kernel, true);
  }
}

void Network::add_norm(int in, int out, const float* weight, const float* bias, int n_groups, float eps, bool silu) {
  Layer& l = next(Kind::norm, {in}, out);
  const int n = channels_[in];
  if (channels_[out] != n) refuse("norm: expected as many channels in as out");
  if (n_groups < 1 || n % n_groups) refuse("groups: expected a divisor of the number of channels");
  l.n_groups = n_groups;
  l.eps = eps;
  l.silu = silu;
  l.weight = with_whole_blocks(weight, n);
  l.bias = with_whole_blocks(bias, n);
  l.group_of.assign(padded(n), -1);
  for (int c = 0; c < n; ++c) l.group_of[c] = c / (n / n_groups);
  l.norm_index = n_norms_++;
}

void Network::add_simple(Kind kind, std::vector<int> in, int out, bool is_fir, int pad, float mul, float add) {
  const size_t expected = kind == Kind::attend ? 3 : kind == Kind::cat || kind == Kind::add ? 2 : 1;
  if (in.size() != expected) refuse("in: expected " + std::to_string(expected) + " images, got " + std::to_string(in.size()));
  Layer& l = next(kind, std::move(in), out);
  int n = channels_[l.in[0]];
  for (int image : l.in)
    if (kind != Kind::cat && channels_[image] != n) refuse("in: expected images of equally many channels");
  if (kind == Kind::cat) n += channels_[l.in[1]];
  if (channels_[out] != n) refuse("out: expected " + std::to_string(n) + " channels, got " + std::to_string(channels_[out]));
  if (kind == Kind::fir && (pad < 0 || pad > 3)) refuse("pad: expected 0 to 3, got " + std::to_string(pad));
  l.is_fir = is_fir;
  l.pad = pad;
  l.mul = mul;
  l.add = add;
}

void Network::finish(int output) {
  check_image(output, "output");
  if (images_.empty() || images_.back().out != output || channels_[output] != 1)
    refuse("output: expected the one channel that the last layer makes");
  // The gradient of an image that nothing reads would be what happens to be in memory.
  for (const Layer& made : images_) {
    const auto reads = [&](const Layer& l) { return std::count(l.in.begin(), l.in.end(), made.out) > 0; };
    if (made.out != output && std::none_of(images_.begin(), images_.end(), reads))
      refuse("image " + std::to_string(made.out) + ": expected a layer that reads it");
  }
  output_ = output;
  long bytes = 0;
  for (const Layer& l : images_)
    if (l.kind == Kind::conv && is_winograd(l)) bytes += 2L * 36 * sizeof(float) * padded(channels_[l.in[0]]) * padded(channels_[l.out]);
  keeps_transforms_ = bytes <= transformed_bytes_;
  if (!keeps_transforms_) return;
  for (Layer& l : images_) {
    if (l.kind != Kind::conv || !is_winograd(l)) continue;
    const int n_in = channels_[l.in[0]], n_out = channels_[l.out];
    l.products.resize(l.taps.size() * 4);
    l.back_products.resize(l.back_taps.size() * 4);
    layers_->winograd_weights(l.taps.data(), n_in, n_out, l.products.data());
    layers_->winograd_weights(l.back_taps.data(), n_out, n_in, l.back_products.data());
    // Assigning {} would keep the memory.
    l.taps = std::vector<float>();
    l.back_taps = std::vector<float>();
  }
}

}  // namespace tpdm
