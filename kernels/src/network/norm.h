// Group normalisation with SiLU, and its pullback.
#pragma once

#include "lanes.h"

namespace tpdm {
namespace {

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

}  // namespace
}  // namespace tpdm
