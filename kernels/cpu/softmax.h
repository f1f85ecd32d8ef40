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

// 2^x, to 3e-6 of itself, for x <= 0; NaN stays NaN. The power of the part above the whole number
// below x is a polynomial of the least largest error; of an infinite x that part is zero.
inline __m512 exp2_not_above_one(__m512 x) {
  const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 power = _mm512_set1_ps(0.01353416791f);
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.05201146062f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.2414427569f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.6930038345f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.000002593f));
  return _mm512_scalef_ps(power, x);  // by 2 to the whole number below x
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

inline __m512 no_maxima() { return _mm512_set1_ps(kMinusInfinity); }

// Takes products to logits in place: under a soft cap, or of a scale that turns them round. Returns the
// largest, lane by lane.
inline __m512 limit_blocks(float* products, int num_blocks, const Logits& logits) {
  __m512 maxima = no_maxima();
  for (float *x = products, *end = products + num_blocks * kLanes; x < end; x += kLanes) {
    __m512 logit = _mm512_mul_ps(_mm512_load_ps(x), _mm512_set1_ps(logits.scale));
    if (logits.cap != 0) logit = _mm512_mul_ps(tanh(logit), _mm512_set1_ps(logits.cap));
    _mm512_store_ps(x, logit);
    maxima = _mm512_max_ps(maxima, logit);
  }
  return maxima;
}

// Makes minus infinity of what a row does not see: it may be anything, not a number too. Returns the
// largest of the rest, lane by lane. lanes: those of each block that the row sees.
inline __m512 hide_lanes(float* products, int num_blocks, const uint16_t* lanes) {
  __m512 maxima = no_maxima();
  for (int b = 0; b < num_blocks; ++b) {
    const __m512 x = _mm512_mask_load_ps(no_maxima(), lanes[b], products + b * kLanes);
    _mm512_store_ps(products + b * kLanes, x);
    maxima = _mm512_max_ps(maxima, x);
  }
  return maxima;
}

// Takes products to weights, 2^(product * scale - base), two blocks at a time; returns the weights'
// sums, lane by lane.
inline __m512 weigh_blocks(const float* products, int num_blocks, float scale, float base,
                           uint16_t* weights) {
  const __m512 scales = _mm512_set1_ps(scale), bases = _mm512_set1_ps(base);
  const auto weigh = [&](int b) {
    return exp2_not_above_one(
        _mm512_fmsub_ps(_mm512_load_ps(products + b * kLanes), scales, bases));
  };
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  int b = 0;
  for (; b + 1 < num_blocks; b += 2) {
    const __m512 first = weigh(b), second = weigh(b + 1);
    even = _mm512_add_ps(even, first);
    odd = _mm512_add_ps(odd, second);
    _mm512_store_si512(weights + b * kLanes, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }
  if (b < num_blocks) {
    const __m512 last = weigh(b);
    even = _mm512_add_ps(even, last);
    _mm256_store_si256(reinterpret_cast<__m256i*>(weights + b * kLanes),
                       (__m256i)_mm512_cvtneps_pbh(last));
  }
  return _mm512_add_ps(even, odd);
}

// A row's products with the next blocks: it sees all of the first `num_whole`, and of each of the rest
// only some lanes.
struct Products {
  float* numbers;
  int num_blocks;
  int num_whole;
  __m512 maxima;          // of the first, lane by lane
  const uint16_t* lanes;  // of each of the rest
};

// Takes products to weights; returns what all sums so far are to be multiplied by.
inline float take_products(RowSoftmax& row, const Products& products, const Logits& logits,
                           uint16_t* weights) {
  const int num_rest = products.num_blocks - products.num_whole;
  float* rest = products.numbers + products.num_whole * kLanes;
  const bool is_plain = logits.cap == 0 && logits.scale > 0;
  __m512 maxima = products.maxima;
  if (!is_plain) {
    maxima = limit_blocks(products.numbers, products.num_whole, logits);
    limit_blocks(rest, num_rest, logits);
  }
  if (num_rest) maxima = _mm512_max_ps(maxima, hide_lanes(rest, num_rest, products.lanes));
  const float scale = is_plain ? logits.scale : 1.0f, before = row.maximum;
  row.maximum = std::fmax(before, _mm512_reduce_max_ps(maxima) * scale);
  const float factor = before == row.maximum ? 1.0f : std::exp2(before - row.maximum);
  // A row that has seen nothing yet: its weights are 2^-inf, not NaN.
  const float base = row.maximum == kMinusInfinity ? 0.0f : row.maximum;
  row.sums = _mm512_fmadd_ps(
      row.sums, _mm512_set1_ps(factor),
      weigh_blocks(products.numbers, products.num_blocks, scale, base, weights));
  return factor;
}

}  // namespace treeserve
