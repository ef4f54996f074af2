#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tpdm {
namespace {

// Numbers of segments that the kernels have room for.
constexpr int kMostSegments = 1024, kMostChannels = 4096;

int padded(int channels) { return blocks_of(channels) * kLanes; }

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

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

GroupNormalisation normalisation(const Layer& l, int channels) {
  return {channels, l.n_groups, l.group_of.data(), l.weight.data(), l.bias.data(), l.eps, l.silu};
}

// An image of one channel.
void put_first_lane(const float* values, float factor, long pixels, float* out) {
  for (long p = 0; p < pixels; ++p) {
    float* pixel = out + p * kLanes;
    for (int c = 1; c < kLanes; ++c) pixel[c] = 0;
    pixel[0] = factor * values[p];
  }
}

// Zeros between the pixels.
void stuff(const float* in, ImageSize size, int blocks, float* out) {
  const long height = 2L * size.height - 1, width = 2L * size.width - 1;
  std::memset(out, 0, sizeof(float) * kLanes * blocks * height * width);
  for (long b = 0; b < blocks; ++b)
    for (long y = 0; y < size.height; ++y)
      for (long x = 0; x < size.width; ++x)
        std::memcpy(out + ((b * height + 2 * y) * width + 2 * x) * kLanes,
                    in + ((b * size.height + y) * size.width + x) * kLanes, sizeof(float) * kLanes);
}

void unstuff(const float* in, ImageSize size, int blocks, bool add, float* out) {
  const long height = 2L * size.height - 1, width = 2L * size.width - 1;
  for (long b = 0; b < blocks; ++b)
    for (long y = 0; y < size.height; ++y)
      for (long x = 0; x < size.width; ++x) {
        const float* from = in + ((b * height + 2 * y) * width + 2 * x) * kLanes;
        float* to = out + ((b * size.height + y) * size.width + x) * kLanes;
        for (int c = 0; c < kLanes; ++c) to[c] = from[c] + (add ? to[c] : 0);
      }
}

inline long at_channel(int channel, long pixels) { return channel / kLanes * pixels * kLanes + channel % kLanes; }

// Channels of one image after those of another.
void join(const float* first, int n, const float* second, int m, long pixels, float* out) {
  std::memcpy(out, first, sizeof(float) * padded(n) * pixels);
  if (n % kLanes == 0) {
    std::memcpy(out + n * pixels, second, sizeof(float) * padded(m) * pixels);
    return;
  }
  for (int c = n; c < padded(n + m); ++c)
    for (long p = 0; p < pixels; ++p)
      out[at_channel(c, pixels) + p * kLanes] = c < n + m ? second[at_channel(c - n, pixels) + p * kLanes] : 0.0f;
}

// `count` channels from `first` on.
void take(const float* in, long pixels, int first, int count, bool add, float* out) {
  if (first % kLanes == 0 && count % kLanes == 0) {
    const float* from = in + first * pixels;
    const long n = count * pixels;
    if (add)
      for (long i = 0; i < n; ++i) out[i] += from[i];
    else
      std::memcpy(out, from, sizeof(float) * n);
    return;
  }
  for (int c = 0; c < padded(count); ++c)
    for (long p = 0; p < pixels; ++p) {
      float& d = out[at_channel(c, pixels) + p * kLanes];
      const float g = c < count ? in[at_channel(first + c, pixels) + p * kLanes] : 0.0f;
      d = add ? d + g : g;
    }
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

Memory::Memory(long floats) {
  constexpr size_t kHuge = size_t{1} << 21;
  size_t bytes = std::max<size_t>(static_cast<size_t>(floats) * sizeof(float), 64);
  const size_t alignment = bytes >= kHuge ? kHuge : 4096;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes);
  if (!p) throw std::bad_alloc();
#ifdef __linux__
  // Fewer address translations; a kernel without huge pages ignores it.
  if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  data_.reset(static_cast<float*>(p));
}

void Memory::Free::operator()(float* p) const { std::free(p); }

// ---- building

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
  layer.stride = 1;
  layer.addend_scale = 1;
  layer.vector = -1;
  layer.norm_index = -1;
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

// ---- planning

Workspace::Workspace(std::shared_ptr<const Network> network, int n_images, ImageSize size, bool with_pullback,
                     bool with_memory)
    : network_(std::move(network)), most_(n_images), with_pullback_(with_pullback) {
  if (n_images < 1) refuse("n_images: expected at least 1, got " + std::to_string(n_images));
  if (network_->output_ < 0) refuse("network: expected one whose layers are all there");
  if (size.height < 1 || size.width < 1) refuse("size: expected at least one pixel");
  sizes_.assign(network_->channels_.size(), {0, 0});
  sizes_[0] = size;
  plan_sizes();
  plan_memory();
  if (!with_memory) return;
  arena_ = Memory(arena_floats_);
  scratch_ = Memory(scratch_floats_);
  for (int n : network_->vector_sizes_) vectors_.emplace_back(n);
  for (const Layer& l : network_->images_) {
    biases_.push_back(l.kind == Kind::conv ? l.bias : std::vector<float>());
    if (l.kind == Kind::norm) {
      mean_.emplace_back(l.weight.size() * n_images);
      rstd_.emplace_back(l.weight.size() * n_images);
    }
  }
}

long Workspace::floats_of(int image) const {
  return sizes_[image].pixels() * padded(network_->channels_[image]);
}

long Workspace::bytes() const { return (arena_floats_ + scratch_floats_) * static_cast<long>(sizeof(float)); }

void Workspace::plan_sizes() {
  for (const Layer& l : network_->images_) {
    const ImageSize in = sizes_[l.in[0]];
    ImageSize out = in;
    switch (l.kind) {
      case Kind::conv:
        if (std::min(in.height, in.width) + 2 * l.pad < l.kernel) refuse("size: expected larger images");
        out = {(in.height + 2 * l.pad - l.kernel) / l.stride + 1, (in.width + 2 * l.pad - l.kernel) / l.stride + 1};
        break;
      case Kind::down:
        if (in.height % 2 || in.width % 2) refuse("size: expected sides that can be halved as often as the network does");
        out = {in.height / 2, in.width / 2};
        break;
      case Kind::up: out = {2 * in.height, 2 * in.width}; break;
      case Kind::fir: out = {in.height + 2 * l.pad - 3, in.width + 2 * l.pad - 3}; break;
      case Kind::stuff: out = {2 * in.height - 1, 2 * in.width - 1}; break;
      default: break;
    }
    if (out.height < 1 || out.width < 1) refuse("size: expected larger images");
    if (l.kind == Kind::attend && (in.pixels() + kLanes - 1) / kLanes > kMostSegments)
      refuse("size: expected at most 16384 pixels where the network attends");
    for (size_t i = 1; i < l.in.size(); ++i) {
      const ImageSize expected = l.kind == Kind::conv ? out : in, got = sizes_[l.in[i]];
      if (got.height != expected.height || got.width != expected.width)
        refuse("size: expected sides that can be halved as often as the network does");
    }
    sizes_[l.out] = out;
  }
  const ImageSize out = sizes_[network_->output_];
  if (out.height != sizes_[0].height || out.width != sizes_[0].width)
    refuse("size: expected sides that can be halved as often as the network does");
}

// Every value and gradient gets a place in the arena for as long as something still reads it: time counts layers forward, then
// backward. First fit, in the order in which they appear.
void Workspace::plan_memory() {
  const Network& net = *network_;
  const int n_images = static_cast<int>(net.channels_.size()), n = static_cast<int>(net.images_.size());
  std::vector<Use> values(n_images), gradients(n_images);
  const auto use = [](Use& u, int time) {
    u.first = u.first < 0 ? time : std::min(u.first, time);
    u.last = std::max(u.last, time);
  };
  use(values[0], -1 + 1);
  for (int i = 0; i < n; ++i) {
    const Layer& l = net.images_[i];
    for (int image : l.in) use(values[image], i + 1);
    use(values[l.out], i + 1);
    if (!with_pullback_) continue;
    const int back = 2 * n + 1 - i;
    if (l.kind == Kind::norm || l.kind == Kind::attend)
      for (int image : l.in) use(values[image], back);
    for (int image : l.in) use(gradients[image], back);
    use(gradients[l.out], back);
  }
  use(values[net.output_], n + 1);
  if (with_pullback_) {
    use(gradients[net.output_], n + 1);
    use(gradients[0], 2 * n + 2);
  }
  adds_.clear();
  std::vector<char> has(n_images, 0);
  adds_.resize(n);
  for (int i = n - 1; with_pullback_ && i >= 0; --i)
    for (int image : net.images_[i].in) {
      adds_[i].push_back(has[image]);
      has[image] = 1;
    }

  struct Place {
    int first, last;
    long at, size;
  };
  struct Wanted {
    Use when;
    int image;
    bool is_gradient;
  };
  std::vector<Wanted> wanted;
  for (int image = 0; image < n_images; ++image) {
    if (values[image].first >= 0) wanted.push_back({values[image], image, false});
    if (gradients[image].first >= 0) wanted.push_back({gradients[image], image, true});
  }
  std::stable_sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) { return a.when.first < b.when.first; });
  std::vector<Place> places;
  value_at_.assign(n_images, 0);
  gradient_at_.assign(n_images, 0);
  for (const Wanted& w : wanted) {
    // A few lines more than the data: streams that are a multiple of a page apart would wait for each other.
    const long size = most_ * floats_of(w.image) + 17 * kLanes;
    std::vector<Place> busy;
    for (const Place& p : places)
      if (p.first <= w.when.last && w.when.first <= p.last) busy.push_back(p);
    std::sort(busy.begin(), busy.end(), [](const Place& a, const Place& b) { return a.at < b.at; });
    long at = 0;
    for (const Place& p : busy) {
      if (at + size <= p.at) break;
      at = std::max(at, p.at + p.size);
    }
    places.push_back({w.when.first, w.when.last, at, size});
    (w.is_gradient ? gradient_at_ : value_at_)[w.image] = at;
    arena_floats_ = std::max(arena_floats_, at + size);
  }

  for (const Layer& l : net.images_) {
    const ImageSize in = sizes_[l.in[0]], out = sizes_[l.out];
    const int n_in = net.channels_[l.in[0]], n_out = net.channels_[l.out];
    switch (l.kind) {
      case Kind::conv:
        if (net.is_winograd(l)) {
          const long transformed = l.products.empty() ? static_cast<long>(l.taps.size()) * 4 : 0;
          need_scratch(transformed + net.layers_->winograd_scratch({n_in, n_out, nullptr}, most_, in));
          if (with_pullback_) need_scratch(transformed + net.layers_->winograd_scratch({n_out, n_in, nullptr}, most_, in));
        } else {
          need_scratch(net.layers_->direct_scratch({n_in, n_out, l.kernel, l.stride, 1, l.pad, l.pad, nullptr}, in, out));
          const int rest = l.kernel - 1 - l.pad;
          if (with_pullback_)
            need_scratch(net.layers_->direct_scratch({n_out, n_in, l.kernel, 1, l.stride, rest, rest, nullptr}, out, in));
        }
        break;
      case Kind::norm: need_scratch(with_pullback_ ? floats_of(l.in[0]) : 0); break;
      case Kind::attend:
        need_scratch(net.layers_->attend_scratch({n_in, l.mul}, in, with_pullback_));
        break;
      default: need_scratch(2L * std::max(in.width, out.width) * kLanes);
    }
  }
}

// ---- running

void Workspace::set_sigma(float sigma) {
  // What depends on the noise level is the same for all slices of a step.
  if (sigma == sigma_) return;
  const Network& net = *network_;
  for (size_t i = 0; i < net.vectors_.size(); ++i) {
    const VectorLayer& l = net.vectors_[i];
    std::vector<float>& out = vectors_[i];
    switch (l.kind) {
      case VectorLayer::Kind::fourier: {
        const size_t n = l.weight.size();
        for (size_t k = 0; k < n; ++k) {
          // Hundreds of turns: in float32 the phase would be off by more than the network resolves.
          const double phase = std::log(static_cast<double>(sigma)) * l.weight[k] * (2 * std::acos(-1.0));
          out[k] = static_cast<float>(std::sin(phase));
          out[n + k] = static_cast<float>(std::cos(phase));
        }
        break;
      }
      case VectorLayer::Kind::dense: {
        const std::vector<float>& in = vectors_[l.in];
        for (size_t o = 0; o < out.size(); ++o) {
          double sum = l.bias[o];
          for (size_t k = 0; k < in.size(); ++k) sum += static_cast<double>(l.weight[o * in.size() + k]) * in[k];
          out[o] = static_cast<float>(sum);
        }
        break;
      }
      case VectorLayer::Kind::silu:
        for (size_t k = 0; k < out.size(); ++k) {
          const double v = vectors_[l.in][k];
          out[k] = static_cast<float>(v / (1 + std::exp(-v)));
        }
        break;
    }
  }
  for (size_t i = 0; i < net.images_.size(); ++i) {
    const Layer& l = net.images_[i];
    if (l.kind != Kind::conv || l.vector < 0) continue;
    for (int c = 0; c < net.channels_[l.out]; ++c) biases_[i][c] = l.bias[c] + vectors_[l.vector][c];
  }
  sigma_ = sigma;
  factor_ = net.sigma_power_ == 1 ? sigma : sigma * sigma;
}

void Workspace::convolve(const Layer& l, bool back, const float* in, ImageSize in_size, const Epilogue& e, float* out,
                         ImageSize out_size) {
  const Network& net = *network_;
  int n_in = net.channels_[l.in[0]], n_out = net.channels_[l.out];
  if (back) std::swap(n_in, n_out);
  const std::vector<float>& taps = back ? l.back_taps : l.taps;
  const std::vector<float>& products = back ? l.back_products : l.products;
  float* scratch = scratch_.data();
  if (net.is_winograd(l)) {
    const float* weights = products.data();
    if (products.empty()) {
      net.layers_->winograd_weights(taps.data(), n_in, n_out, scratch);
      weights = scratch;
      scratch += taps.size() * 4;
    }
    net.layers_->winograd({n_in, n_out, weights}, n_, in, in_size, e, out, scratch);
    return;
  }
  const int rest = l.kernel - 1 - l.pad;
  const DirectConvolution forward{n_in, n_out, l.kernel, l.stride, 1, l.pad, l.pad, taps.data()};
  const DirectConvolution backward{n_in, n_out, l.kernel, 1, l.stride, rest, rest, taps.data()};
  const long in_floats = in_size.pixels() * padded(n_in), out_floats = out_size.pixels() * padded(n_out);
  for (int i = 0; i < n_; ++i) {
    const Epilogue here{e.bias, e.addend ? e.addend + i * out_floats : nullptr, e.scale};
    net.layers_->direct(back ? backward : forward, in + i * in_floats, in_size, here, out + i * out_floats, out_size, scratch);
  }
}

void Workspace::forward(const Layer& l, int index) {
  const Layers& f = *network_->layers_;
  const ImageSize in = sizes_[l.in[0]], out = sizes_[l.out];
  const int n = network_->channels_[l.in[0]], blocks = blocks_of(n);
  float* scratch = scratch_.data();
  if (l.kind == Kind::conv) {
    const float* addend = l.in.size() == 2 ? value(l.in[1]) : nullptr;
    convolve(l, false, value(l.in[0]), in, {biases_[index].data(), addend, l.addend_scale}, value(l.out), out);
    return;
  }
  for (int i = 0; i < n_; ++i) {
    const float* x = value(l.in[0], i);
    float* y = value(l.out, i);
    switch (l.kind) {
      case Kind::conv: break;
      case Kind::norm: {
        const size_t at = i * l.weight.size();
        f.norm(normalisation(l, n), x, in, &mean_[l.norm_index][at], &rstd_[l.norm_index][at], y);
        break;
      }
      case Kind::down: f.down(x, in, blocks, l.is_fir, 1, false, y, scratch); break;
      case Kind::up: f.up(x, in, blocks, l.is_fir, 1, false, y, scratch); break;
      case Kind::fir: f.fir(x, in, blocks, l.pad, l.mul, false, y, scratch); break;
      case Kind::stuff: stuff(x, in, blocks, y); break;
      case Kind::cat: join(x, n, value(l.in[1], i), network_->channels_[l.in[1]], in.pixels(), y); break;
      case Kind::attend: f.attend({n, l.mul}, x, value(l.in[1], i), value(l.in[2], i), in, y, scratch); break;
      case Kind::add: f.combine(x, 1, value(l.in[1], i), 1, 0, floats_of(l.out), y); break;
      case Kind::affine: f.combine(x, l.mul, nullptr, 0, l.add, floats_of(l.out), y); break;
    }
  }
}

void Workspace::backward(const Layer& l, int index) {
  const Layers& f = *network_->layers_;
  const ImageSize in = sizes_[l.in[0]], out = sizes_[l.out];
  const int n = network_->channels_[l.in[0]], blocks = blocks_of(n);
  float* scratch = scratch_.data();
  const std::vector<char>& adds = adds_[index];
  // gradient of `to` (+)= scale · dy, floats one after the other
  const auto pass_on = [&f](const float* dy, float scale, bool add, long floats, float* to) {
    f.combine(dy, scale, add ? to : nullptr, 1, 0, floats, to);
  };
  if (l.kind == Kind::conv) {
    float* dx = gradient(l.in[0]);
    convolve(l, true, gradient(l.out), out, {nullptr, adds[0] ? dx : nullptr, 1}, dx, in);
    if (l.in.size() == 2) pass_on(gradient(l.out), l.addend_scale, adds[1], n_ * floats_of(l.out), gradient(l.in[1]));
    return;
  }
  for (int i = 0; i < n_; ++i) {
    const float* dy = gradient(l.out, i);
    float* dx = gradient(l.in[0], i);
    switch (l.kind) {
      case Kind::conv: break;
      case Kind::norm: {
        const size_t at = i * l.weight.size();
        f.norm_pullback(normalisation(l, n), value(l.in[0], i), in, &mean_[l.norm_index][at], &rstd_[l.norm_index][at], dy,
                        adds[0], dx, scratch);
        break;
      }
      // Up keeps intensities, so that it is four times the transpose of the averaging down.
      case Kind::down: f.up(dy, out, blocks, l.is_fir, 0.25f, adds[0], dx, scratch); break;
      case Kind::up: f.down(dy, out, blocks, l.is_fir, 4, adds[0], dx, scratch); break;
      case Kind::fir: f.fir(dy, out, blocks, 3 - l.pad, l.mul, adds[0], dx, scratch); break;
      case Kind::stuff: unstuff(dy, in, blocks, adds[0], dx); break;
      case Kind::cat: {
        const int m = network_->channels_[l.in[1]];
        take(dy, in.pixels(), 0, n, adds[0], dx);
        take(dy, in.pixels(), n, m, adds[1], gradient(l.in[1], i));
        break;
      }
      case Kind::attend:
        f.attend_pullback({n, l.mul}, value(l.in[0], i), value(l.in[1], i), value(l.in[2], i), in, dy, adds[0], dx, adds[1],
                          gradient(l.in[1], i), adds[2], gradient(l.in[2], i), scratch);
        break;
      case Kind::add:
        pass_on(dy, 1, adds[0], floats_of(l.out), dx);
        pass_on(dy, 1, adds[1], floats_of(l.out), gradient(l.in[1], i));
        break;
      case Kind::affine: pass_on(dy, l.mul, adds[0], floats_of(l.out), dx); break;
    }
  }
}

void Workspace::denoise(const float* x, int n, float sigma, float* x0) {
  set_sigma(sigma);
  n_ = n;
  const Network& net = *network_;
  const long pixels = n * sizes_[0].pixels();
  put_first_lane(x, 1, pixels, value(0));
  for (size_t i = 0; i < net.images_.size(); ++i) forward(net.images_[i], static_cast<int>(i));
  const float* raw = value(net.output_);
  for (long p = 0; p < pixels; ++p) x0[p] = x[p] + factor_ * raw[p * kLanes];
  is_ready_ = with_pullback_;
}

void Workspace::pullback(const float* cotangent, int n, float* out) {
  if (!is_ready_ || n != n_)
    throw std::logic_error("pullback: expected as many images as denoise got, with the values kept, once for each call of it");
  is_ready_ = false;
  const Network& net = *network_;
  const long pixels = n * sizes_[0].pixels();
  put_first_lane(cotangent, factor_, pixels, gradient(net.output_));
  for (size_t i = net.images_.size(); i-- > 0;) backward(net.images_[i], static_cast<int>(i));
  const float* first = gradient(0);
  for (long p = 0; p < pixels; ++p) out[p] = cotangent[p] + first[p * kLanes];
}

}  // namespace tpdm
