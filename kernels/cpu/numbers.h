// Sixteen numbers of bfloat16 at a time, the last of a row fewer, to float32 and back.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace treeserve {

// Of `left` numbers, at most 16.
inline __mmask16 first_lanes(int64_t left) {
  return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
}

inline __m256i load_bits(const uint16_t* numbers, int64_t left) {
  return left >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers))
                    : _mm256_maskz_loadu_epi16(first_lanes(left), numbers);
}

inline __m512 widen(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __m512 load_numbers(const uint16_t* numbers, int64_t left) {
  return widen(load_bits(numbers, left));
}

inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

// As it is after it was stored.
inline __m512 round_numbers(__m512 x) { return widen(narrow(x)); }

inline void store_numbers(uint16_t* numbers, __m512 x, int64_t left) {
  if (left >= 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), narrow(x));
  else
    _mm256_mask_storeu_epi16(numbers, first_lanes(left), narrow(x));
}

}  // namespace treeserve
