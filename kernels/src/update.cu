// The sampler's arithmetic on a GPU, with the noise made in registers and every result left on the device.
#include "update.h"

#include <algorithm>

#include "kernels.h"
#include "launch.h"
#include "noise_fours.h"

namespace tpdm {
namespace {

// Threads that share the sums of a slice: with the slices of a volume they fill a large GPU, and their sums are few
// enough for one thread to add.
constexpr std::int64_t kMaxParts = 512;
// Bounds of groups that travel with one launch, within the 4 KiB that its arguments may take.
constexpr std::int64_t kMaxGroups = 255;

// Thread (group of slices, part) adds units part, part + n_parts, … of its slices, in this order.
struct PartialNorms {
  Fours fours;
  const float *x, *x0;
  double* parts;
  std::int64_t n_parts;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    const std::int64_t group = i / n_parts, part = i % n_parts;
    double score[4] = {0, 0, 0, 0}, noise[4] = {0, 0, 0, 0};
    for (std::int64_t unit = part; unit < fours.n_units_a_group; unit += n_parts) {
      fours.visit(group, unit, [&](int k, std::int64_t, std::int64_t entry, float z) {
        score[k] += square(x0[entry] - x[entry]);
        noise[k] += square(z);
      });
    }
    const std::int64_t n = fours.stack.n_slices;
    if (fours.axis == 0) {
#if defined(__CUDACC__)
#pragma unroll
#endif
      for (int k = 0; k < 4; ++k) {
        if (4 * group + k < n) write(part * n + 4 * group + k, score[k], noise[k]);
      }
    } else {
      write(part * n + group, score[0] + score[1] + score[2] + score[3], noise[0] + noise[1] + noise[2] + noise[3]);
    }
  }

  TPDM_KERNEL void write(std::int64_t at, double score, double noise) const {
    parts[2 * at] = score;
    parts[2 * at + 1] = noise;
  }
};

// Thread k adds the parts of norm k; neighbours read neighbours.
struct SumOfParts {
  const double* parts;
  std::int64_t n_parts, n_norms;
  double* norms;

  TPDM_KERNEL void operator()(std::int64_t k) const {
    double sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += parts[part * n_norms + k];
    norms[k] = sum;
  }
};

// Thread g does the slices of group g. The bounds are arguments: nothing has to be uploaded, or waited for.
struct LangevinSteps {
  const double* norms;
  std::int64_t bounds[kMaxGroups + 1];
  double snr, variance;
  float *a, *b;

  TPDM_KERNEL void operator()(std::int64_t g) const {
    const LangevinStep step = langevin_step(norms, bounds[g], bounds[g + 1], snr, variance);
    for (std::int64_t i = bounds[g]; i < bounds[g + 1]; ++i) {
      a[i] = step.a;
      b[i] = step.b;
    }
  }
};

struct Update {
  Fours fours;
  bool has_noise;
  const float *x, *x0, *a, *b, *pullback, *weight;
  float* out;

  TPDM_KERNEL void operator()(std::int64_t i) const {
    fours.visit(i / fours.n_units_a_group, i % fours.n_units_a_group,
                [this](int, std::int64_t slice, std::int64_t entry, float z) {
                  float value = denoised(x[entry], x0[entry], a[slice]);
                  if (has_noise) value = noised(value, b[slice], z);
                  if (pullback != nullptr) value = descended(value, weight[slice], pullback[entry]);
                  out[entry] = value;
                });
  }
};

}  // namespace

std::int64_t norm_parts(const Stack& stack) { return std::min(kMaxParts, stack.slice_size()); }

void score_norms(const Stack& stack, const float* x, const float* x0, const Noise& noise, double* parts,
                 std::int64_t n_parts, double* norms, const Context& context) {
  const Fours fours(stack, noise);
  launch("score_norms", fours.n_groups * n_parts, context, PartialNorms{fours, x, x0, parts, n_parts});
  launch("score_norms", 2 * stack.n_slices, context, SumOfParts{parts, n_parts, 2 * stack.n_slices, norms});
}

void langevin_steps(const double* norms, const std::int64_t* bounds, std::int64_t n_groups, double snr, double variance,
                    float* a, float* b, const Context& context) {
  for (std::int64_t first = 0; first < n_groups; first += kMaxGroups) {
    const std::int64_t count = std::min(kMaxGroups, n_groups - first);
    LangevinSteps kernel{norms, {}, snr, variance, a, b};
    std::copy_n(bounds + first, count + 1, kernel.bounds);
    launch("langevin_steps", count, context, kernel);
  }
}

void sampler_update(const Stack& stack, const float* x, const float* x0, const Noise& noise, const float* a,
                    const float* b, const float* pullback, const float* weight, float* out, const Context& context) {
  const Fours fours(stack, noise);
  const bool has_noise = noise.keyed || noise.stored != nullptr;
  launch("sampler_update", fours.n_groups * fours.n_units_a_group, context,
         Update{fours, has_noise, x, x0, a, b, pullback, weight, out});
}

}  // namespace tpdm
