// The sampler's arithmetic, one pass over memory each, with the noise made on the way.
#include "update.h"

#include "kernels.h"
#include "noise_rows.h"

namespace tpdm {
namespace {

// Partial sums of a row, by column modulo this: fixed here, so that every width of vectors adds in the same order.
constexpr int kLanes = 16;

double sum_of(const double* lanes) {
  double sum = 0;
  for (int k = 0; k < kLanes; ++k) sum += lanes[k];
  return sum;
}

TPDM_WIDE double sum_of_squares(const float* z, std::int64_t count) {
  double lanes[kLanes] = {};
  std::int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += square(z[c + k]);
  }
  for (int k = 0; c + k < count; ++k) lanes[k] += square(z[c + k]);
  return sum_of(lanes);
}

// Not in one loop with the other sum: compilers keep one set of lanes in registers, not two.
TPDM_WIDE double sum_of_squared_differences(const float* x, const float* x0, std::int64_t count) {
  double lanes[kLanes] = {};
  std::int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += square(x0[c + k] - x[c + k]);
  }
  for (int k = 0; c + k < count; ++k) lanes[k] += square(x0[c + k] - x[c + k]);
  return sum_of(lanes);
}

// An output that is one of the inputs is read before it is written, entry by entry; a shifted one was refused before.
#if defined(__GNUC__)
#define TPDM_EACH _Pragma("GCC ivdep") for (std::int64_t c = 0; c < count; ++c)
#else
#define TPDM_EACH for (std::int64_t c = 0; c < count; ++c)
#endif

TPDM_WIDE void update_row(const float* x, const float* x0, float a, const float* z, float b, const float* pullback,
                          float weight, float* out, std::int64_t count) {
  if (z != nullptr && pullback != nullptr) {
    TPDM_EACH out[c] = descended(noised(denoised(x[c], x0[c], a), b, z[c]), weight, pullback[c]);
  } else if (z != nullptr) {
    TPDM_EACH out[c] = noised(denoised(x[c], x0[c], a), b, z[c]);
  } else if (pullback != nullptr) {
    TPDM_EACH out[c] = descended(denoised(x[c], x0[c], a), weight, pullback[c]);
  } else {
    TPDM_EACH out[c] = denoised(x[c], x0[c], a);
  }
}

}  // namespace

// One part a row: rows of a slice may be visited by several threads.
std::int64_t norm_parts(const Stack& stack) { return stack.n_rows; }

void score_norms(const Stack& stack, const float* x, const float* x0, const Noise& noise, double* parts,
                 std::int64_t n_parts, double* norms, const Context& context) {
  visit_rows(stack, noise, context, [&](std::int64_t slice, std::int64_t row, const float* z) {
    const std::int64_t at = (slice * stack.n_rows + row) * stack.n_columns;
    double* part = parts + 2 * (row * stack.n_slices + slice);
    part[0] = sum_of_squared_differences(x + at, x0 + at, stack.n_columns);
    part[1] = sum_of_squares(z, stack.n_columns);
  });
  std::fill_n(norms, 2 * stack.n_slices, 0.0);
  for (std::int64_t part = 0; part < n_parts; ++part) {
    for (std::int64_t k = 0; k < 2 * stack.n_slices; ++k) norms[k] += parts[2 * part * stack.n_slices + k];
  }
}

void langevin_steps(const double* norms, const std::int64_t* bounds, std::int64_t n_groups, double snr, double variance,
                    float* a, float* b, const Context&) {
  for (std::int64_t group = 0; group < n_groups; ++group) {
    const LangevinStep step = langevin_step(norms, bounds[group], bounds[group + 1], snr, variance);
    std::fill(a + bounds[group], a + bounds[group + 1], step.a);
    std::fill(b + bounds[group], b + bounds[group + 1], step.b);
  }
}

void sampler_update(const Stack& stack, const float* x, const float* x0, const Noise& noise, const float* a,
                    const float* b, const float* pullback, const float* weight, float* out, const Context& context) {
  visit_rows(stack, noise, context, [&](std::int64_t slice, std::int64_t row, const float* z) {
    const std::int64_t at = (slice * stack.n_rows + row) * stack.n_columns;
    const bool noisy = z != nullptr, guided = pullback != nullptr;
    update_row(x + at, x0 + at, a[slice], z, noisy ? b[slice] : 0.0f, guided ? pullback + at : nullptr,
               guided ? weight[slice] : 0.0f, out + at, stack.n_columns);
  });
}

}  // namespace tpdm
