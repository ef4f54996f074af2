// A planned network, run forward and backward layer by layer.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "network.h"

namespace tpdm {
namespace {

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
