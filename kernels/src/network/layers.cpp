// The table of layers for one instruction set, which TPDM_LAYERS names: this file is compiled once for every set.
#include "attention.h"
#include "direct.h"
#include "norm.h"
#include "resample.h"
#include "winograd.h"

namespace tpdm {
namespace {

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
