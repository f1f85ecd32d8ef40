// The gate of a gated layer, sixteen numbers at a time.
#pragma once

#include <immintrin.h>

#include "numbers.h"
#include "softmax.h"

namespace treeserve {

// silu(x) * y before it is rounded, silu(x) = x / (1 + e^-x) rounded.
inline __m512 gate(__m512 x, __m512 y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 power =
      exp2_not_above_one(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-kLog2E)));
  const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 above = _mm512_mask_mov_ps(one, is_negative, power);
  const __m512 sigmoid = _mm512_div_ps(above, _mm512_add_ps(one, power));
  return _mm512_mul_ps(round_numbers(_mm512_mul_ps(x, sigmoid)), y);
}

}  // namespace treeserve
