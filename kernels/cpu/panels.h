// How a linear layer's weight lies in memory, and the products of a few rows with a part of it.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "product.h"

namespace treeserve {

// A weight is cut into panels of 64 outputs, the last filled up with zeros; a panel is
//   [in_features / 2][64 outputs][2]   pairs along the inputs, of bfloat16 or of int8
// so it is read from its beginning to its end. Also written down in treeserve/cpu_layers/panels.py.
constexpr int kPanel = 64;
constexpr int kPanelVectors = kPanel / 16;
constexpr int kTileRows = 6;

// Inputs whose products fit into int32, however large: 256 * 32767 * 127 < 2^31.
constexpr int64_t kSegment = 256;
constexpr float kLargest = 32767.0f;

inline int64_t num_segments(int64_t in_features) { return (in_features + kSegment - 1) / kSegment; }

// Asks for what is read next, some lines with every pair of inputs, while this panel is worked on.
struct Ahead {
  const char* next;
  int64_t step;  // bytes

  template <int LINES>
  void ask() {
#pragma GCC unroll 8
    for (int line = 0; line < LINES; ++line) _mm_prefetch(next + line * 64, _MM_HINT_T1);
    next += step;
  }
};

inline int32_t load_pair(const void* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return both;
}

// As _mm512_dpwssd_epi32, for which GCC 12 copies and stores every sum.
inline __m512i multiply_int16_pairs(__m512i sum, __m512i pair, __m512i packed) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(pair), "v"(packed));
  return sum;
}

// sums[r][output] of ROWS rows of bfloat16 with so many inputs of a panel of bfloat16, added to what
// `sums` has unless these are the first. Each sum is taken in the order of the inputs, so it does not
// depend on how many rows there are, nor on where the inputs are cut.
template <int ROWS, int LINES>
void bfloat16_tile(const Numbers* states, int64_t stride, int64_t count, const char* panel,
                   Ahead ahead, bool is_first, float* sums) {
  __m512 s[ROWS][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v)
      s[r][v] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(sums + r * kPanel + v * 16);
  for (int64_t i = 0; i < count; i += 2) {
    ahead.ask<LINES>();
    __m512i packed[kPanelVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v)
      packed[v] = _mm512_load_si512(panel + i * (kPanel * 2) + v * 64);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v)
        s[r][v] = multiply_pairs(s[r][v], states + r * stride + i, packed[v]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) _mm512_store_ps(sums + r * kPanel + v * 16, s[r][v]);
}

// Of rows of int16 with one segment of a panel of int8, exact; multiplied by each row's scale and
// added to `sums` unless the segment is the first. A function of its own, for the compiler keeps the
// sums of a loop within a loop in memory.
template <int ROWS, int LINES>
__attribute__((noinline)) void int8_segment(const int16_t* states, int64_t stride, int64_t count,
                                            const char* panel, Ahead ahead, const float* scales,
                                            int64_t scales_stride, bool is_first, float* sums) {
  __m512i s[ROWS][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) s[r][v] = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 2) {
    ahead.ask<LINES>();
    __m512i packed[kPanelVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v)
      packed[v] = _mm512_cvtepi8_epi16(
          _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + i * kPanel + v * 32)));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const __m512i pair = _mm512_set1_epi32(load_pair(states + r * stride + i));
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v)
        s[r][v] = multiply_int16_pairs(s[r][v], pair, packed[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const __m512 scale = _mm512_set1_ps(scales[r * scales_stride]);
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) {
      float* sum = sums + r * kPanel + v * 16;
      const __m512 before = is_first ? _mm512_setzero_ps() : _mm512_load_ps(sum);
      _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[r][v]), scale, before));
    }
  }
}

// Of rows of int16 with whole segments of a panel of int8, as above. scales: of each row, so many
// numbers from row to row, what the numbers of each of these segments are to be multiplied by.
template <int ROWS, int LINES>
void int8_tile(const int16_t* states, int64_t stride, int64_t count, const char* panel,
               Ahead ahead, const float* scales, int64_t scales_stride, bool is_first,
               float* sums) {
  for (int64_t start = 0; start < count; start += kSegment) {
    const int64_t left = count - start;
    int8_segment<ROWS, LINES>(states + start, stride, left < kSegment ? left : kSegment,
                              panel + start * kPanel, ahead, scales + start / kSegment,
                              scales_stride, is_first && start == 0, sums);
    ahead.next += kSegment / 2 * ahead.step;
  }
}

using Bfloat16Tile = decltype(&bfloat16_tile<1, 1>);
using Int8Tile = decltype(&int8_tile<1, 1>);

template <int LINES>
constexpr std::array<Bfloat16Tile, kTileRows> kBfloat16Tiles = {
    &bfloat16_tile<1, LINES>, &bfloat16_tile<2, LINES>, &bfloat16_tile<3, LINES>,
    &bfloat16_tile<4, LINES>, &bfloat16_tile<5, LINES>, &bfloat16_tile<6, LINES>};
template <int LINES>
constexpr std::array<Int8Tile, kTileRows> kInt8Tiles = {
    &int8_tile<1, LINES>, &int8_tile<2, LINES>, &int8_tile<3, LINES>,
    &int8_tile<4, LINES>, &int8_tile<5, LINES>, &int8_tile<6, LINES>};

// Lines that a pair of inputs takes of a panel.
constexpr int kBfloat16Lines = kPanel * 4 / 64;
constexpr int kInt8Lines = kPanel * 2 / 64;

}  // namespace treeserve
