// One block of the counter-based generator Philox 4x32-10 and its transform to four standard normals.
//
// Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011); Box and Muller (1958).
//
// Everything after the generator is float32 made of additions, multiplications, one division and one square root, all
// correctly rounded, and of integer operations. So host and device give the same bits, provided neither contracts
// a*b+c (-ffp-contract=off here, --fmad=false for a device compiler); with contraction they differ by a few ulp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace tpdm {

struct Words {
  std::uint32_t w0, w1, w2, w3;
};

struct Normals {
  float z0, z1, z2, z3;
};

TPDM_HD Words philox4x32_10(Words c, std::uint32_t key0, std::uint32_t key1) {
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.w0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c.w2;
    c = Words{static_cast<std::uint32_t>(p1 >> 32) ^ c.w1 ^ key0, static_cast<std::uint32_t>(p1),
              static_cast<std::uint32_t>(p0 >> 32) ^ c.w3 ^ key1, static_cast<std::uint32_t>(p0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// The counter: block index (64 bits, low word first), step, phase. A block serves four consecutive voxels.
TPDM_HD Words noise_block(std::uint64_t seed, std::uint64_t block, std::uint32_t step, std::uint32_t phase) {
  const Words counter{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), step, phase};
  return philox4x32_10(counter, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
}

// sqrt(-2 ln u) of u = (word + 1/2) / 2^32, which lies strictly between 0 and 1: neither ln 0 nor a lost ln 1.
TPDM_HD float normal_radius(std::uint32_t word) {
  const float u = (static_cast<float>(word) + 0.5f) * 0x1p-32f;
  std::int32_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  // u = 2^exponent * m with m in [sqrt(1/2), sqrt(2)); 0x3f3504f3 are the bits of sqrt(1/2).
  const std::int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const std::int32_t m_bits = bits - exponent * (1 << 23);
  float m;
  std::memcpy(&m, &m_bits, sizeof m);
  // Near 1 a float32 has lost most of 1 - u, which decides the radius there: with exponent 0 it is taken from the word.
  const float m_less_1 = exponent == 0 ? -((static_cast<float>(~word) + 0.5f) * 0x1p-32f) : m - 1.0f;
  // ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.1716: the first term left out is below 2e-9 of the first kept.
  const float s = m_less_1 / (m + 1.0f);
  const float q = s * s;
  const float tail = q * (0.33333334f + q * (0.2f + q * (0.14285715f + q * 0.11111111f)));
  const float log_u = static_cast<float>(exponent) * 0.6931472f + 2.0f * (s + s * tail);
  return sqrtf(-2.0f * log_u);
}

// Cosine and sine of 2 pi word / 2^32. The nearest quarter turn is split off in integers, so the reduction is exact.
TPDM_HD void normal_direction(std::uint32_t word, float& cosine, float& sine) {
  const std::uint32_t quarter = (word + 0x20000000u) >> 30;
  const std::int32_t rest = static_cast<std::int32_t>(word - (quarter << 30));
  const float a = static_cast<float>(rest) * 1.4629180792671596e-9f;  // 2 pi / 2^32; |a| <= pi / 4
  const float q = a * a;
  // Taylor: the first terms left out are below 2e-9.
  const float s = a + a * (q * (-1.6666667e-1f + q * (8.3333333e-3f + q * (-1.9841270e-4f + q * 2.7557319e-6f))));
  const float c =
      1.0f + q * (-0.5f + q * (4.1666667e-2f + q * (-1.3888889e-3f + q * (2.4801587e-5f + q * -2.7557319e-7f))));
  const bool swap = (quarter & 1u) != 0u;
  const float unsigned_cosine = swap ? s : c;
  const float unsigned_sine = swap ? c : s;
  cosine = ((quarter + 1u) & 2u) != 0u ? -unsigned_cosine : unsigned_cosine;
  sine = (quarter & 2u) != 0u ? -unsigned_sine : unsigned_sine;
}

TPDM_HD Normals normals_from_words(Words w) {
  float c0, s0, c1, s1;
  normal_direction(w.w1, c0, s0);
  normal_direction(w.w3, c1, s1);
  const float r0 = normal_radius(w.w0);
  const float r1 = normal_radius(w.w2);
  return Normals{r0 * c0, r0 * s0, r1 * c1, r1 * s1};
}

}  // namespace tpdm
