// The online softmax of one row: logits in, weights of bfloat16 out, the maximum and sum so far kept.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "layout.h"

namespace treeserve {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// 2^x, to 3e-6 of itself, for x <= 0; NaN stays NaN.
inline __m512 exp2_not_above_one(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(0.00133335581464f);
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.00961812910763f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.0555041086648f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.240226506959f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(kLn2));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);
}

// tanh(x) = sign(x) (1 - t) / (1 + t) with t = 2^(-2 |x| log2 e).
inline __m512 tanh(__m512 x) {
  const __m512 size = _mm512_abs_ps(x);
  const __m512 t = exp2_not_above_one(_mm512_mul_ps(size, _mm512_set1_ps(-2.0f * kLog2E)));
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 result = _mm512_div_ps(_mm512_sub_ps(one, t), _mm512_add_ps(one, t));
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(result, _mm512_and_ps(sign, x));
}

// Logits are kept in units of log 2: `scale` takes products there, or, with a soft cap, to what the
// tanh takes, and `cap` takes them there from it; 0 is no cap.
struct Logits {
  float scale;
  float cap;
};

inline Logits make_logits(float scaling, float softcap) {
  if (softcap > 0) return {scaling / softcap, softcap * kLog2E};
  return {scaling * kLog2E, 0.0f};
}

struct RowSoftmax {
  float maximum = kMinusInfinity;
  __m512 sums = _mm512_setzero_ps();  // lane by lane

  float sum() const { return _mm512_reduce_add_ps(sums); }
};

// Takes the next blocks' products to weights; returns what all sums so far are to be multiplied by.
// lanes: the lanes of each block that the row sees; nullptr: all.
inline float take_blocks(RowSoftmax& row, float* products, int num_blocks, const Logits& logits,
                         const uint16_t* lanes, uint16_t* weights) {
  const __m512 scale = _mm512_set1_ps(logits.scale);
  __m512 maxima = _mm512_set1_ps(kMinusInfinity);
  for (int b = 0; b < num_blocks; ++b) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(products + b * kLanes), scale);
    if (logits.cap != 0) x = _mm512_mul_ps(tanh(x), _mm512_set1_ps(logits.cap));
    // What lies in other lanes may be anything, not a number too.
    if (lanes) x = _mm512_mask_mov_ps(_mm512_set1_ps(kMinusInfinity), lanes[b], x);
    if (lanes || logits.cap != 0) _mm512_storeu_ps(products + b * kLanes, x);
    maxima = _mm512_max_ps(maxima, x);
  }
  const float before = row.maximum;
  const float maximum = std::fmax(before, _mm512_reduce_max_ps(maxima));
  row.maximum = maximum;
  // A row that has seen nothing yet: its weights are 2^-inf, not NaN.
  const __m512 base = _mm512_set1_ps(maximum == kMinusInfinity ? 0.0f : maximum);
  const __m512 factor_of_stored = lanes || logits.cap != 0 ? _mm512_set1_ps(1.0f) : scale;
  const float factor = before == maximum ? 1.0f : std::exp2(before - maximum);
  __m512 sums = _mm512_mul_ps(row.sums, _mm512_set1_ps(factor));
  for (int b = 0; b < num_blocks; ++b) {
    const __m512 x = _mm512_loadu_ps(products + b * kLanes);
    __m512 weight = exp2_not_above_one(_mm512_fmsub_ps(x, factor_of_stored, base));
    if (lanes) weight = _mm512_maskz_mov_ps(lanes[b], weight);
    sums = _mm512_add_ps(sums, weight);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + b * kLanes),
                        (__m256i)_mm512_cvtneps_pbh(weight));
  }
  row.sums = sums;
  return factor;
}

}  // namespace treeserve
