// Products of a few rows with packed blocks, held in registers: bfloat16 in, float32 out.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "layout.h"

namespace treeserve {

// A tile's sums, one vector of each block and one pair of a row are all in the 32 registers.
constexpr int kMaxRows = 7;
constexpr int kMaxVectors = 4;
inline int most_vectors(int rows) { return rows == kMaxRows ? 3 : kMaxVectors; }

using Numbers = uint16_t;  // bfloat16

inline __m512 multiply_pairs(__m512 sum, const Numbers* pair, __m512i packed) {
  int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)packed);
}

// What a tile asks for while it works: nothing, one block, or as many blocks as it is wide. What lies
// in memory, or in a cache that is far, is on its way before it is read.
enum class Asking { kNothing, kOne, kAsMany };

inline void ask(const char* line) { _mm_prefetch(line, _MM_HINT_T0); }

// logits[r][16 * b + lane] of ROWS rows of q with BLOCKS blocks of K; maxima[r] grow by them. As many
// lines of a block ahead are asked for as one of K has.
template <Asking ASKING, int ROWS, int BLOCKS>
void logits_tile(const Numbers* q, int64_t head_dim, const char* const* k, const char* const* ahead,
                 float* logits, int64_t logits_stride, __m512* maxima) {
  constexpr int kLines = ASKING == Asking::kNothing ? 0 : ASKING == Asking::kOne ? 1 : BLOCKS;
  __m512 sums[ROWS][BLOCKS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) sums[r][b] = _mm512_setzero_ps();
  for (int64_t i = 0; i < head_dim; i += 2) {
    __m512i packed[BLOCKS];
#pragma GCC unroll 8
    for (int line = 0; line < kLines; ++line) ask(ahead[line] + i / 2 * 64);
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) packed[b] = _mm512_load_si512(k[b] + i / 2 * 64);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int b = 0; b < BLOCKS; ++b)
        sums[r][b] = multiply_pairs(sums[r][b], q + r * head_dim + i, packed[b]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    __m512 maximum = maxima[r];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) {
      _mm512_store_ps(logits + r * logits_stride + b * kLanes, sums[r][b]);
      maximum = _mm512_max_ps(maximum, sums[r][b]);
    }
    maxima[r] = maximum;
  }
}

// out[r][...] = out[r][...] * factors[r] + weights[r] x V, VECTORS x 16 dimensions from `first` on.
// Of the blocks ahead, one for each of V, the same dimensions are asked for.
template <Asking ASKING, int ROWS, int VECTORS>
void values_tile(const Numbers* weights, int64_t weights_stride, const char* const* v,
                 const char* const* ahead, int num_blocks, int64_t first, int64_t head_dim,
                 const float* factors, float* out) {
  __m512 sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < VECTORS; ++n)
      sums[r][n] = _mm512_mul_ps(_mm512_loadu_ps(out + r * head_dim + first + n * 16),
                                 _mm512_set1_ps(factors[r]));
  for (int b = 0; b < num_blocks; ++b) {
    const char* block = v[b] + first * 4;
    const char* soon = ASKING == Asking::kAsMany ? ahead[b] + first * 4 : nullptr;
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      __m512i packed[VECTORS];
      if (ASKING == Asking::kAsMany) {
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; ++n) ask(soon + pair * head_dim * 4 + n * 64);
      }
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n)
        packed[n] = _mm512_load_si512(block + pair * head_dim * 4 + n * 64);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; ++n)
          sums[r][n] = multiply_pairs(
              sums[r][n], weights + r * weights_stride + b * kLanes + 2 * pair, packed[n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < VECTORS; ++n)
      _mm512_storeu_ps(out + r * head_dim + first + n * 16, sums[r][n]);
}

using LogitsTile = decltype(&logits_tile<Asking::kNothing, 1, 1>);
using ValuesTile = decltype(&values_tile<Asking::kNothing, 1, 1>);

template <Asking ASKING, int... I>
constexpr std::array<LogitsTile, sizeof...(I)> logits_tiles(std::integer_sequence<int, I...>) {
  return {&logits_tile<ASKING, I / kMaxVectors + 1, I % kMaxVectors + 1>...};
}

template <Asking ASKING, int... I>
constexpr std::array<ValuesTile, sizeof...(I)> values_tiles(std::integer_sequence<int, I...>) {
  return {&values_tile<ASKING, I / kMaxVectors + 1, I % kMaxVectors + 1>...};
}

using Shapes = std::make_integer_sequence<int, kMaxRows * kMaxVectors>;
template <Asking ASKING>
constexpr auto kLogitsTiles = logits_tiles<ASKING>(Shapes{});
template <Asking ASKING>
constexpr auto kValuesTiles = values_tiles<ASKING>(Shapes{});

inline LogitsTile logits_tile_for(Asking asking, int rows, int blocks) {
  const int shape = (rows - 1) * kMaxVectors + blocks - 1;
  if (asking == Asking::kNothing) return kLogitsTiles<Asking::kNothing>[shape];
  if (asking == Asking::kOne) return kLogitsTiles<Asking::kOne>[shape];
  return kLogitsTiles<Asking::kAsMany>[shape];
}

// Blocks that are read soon, to be asked for one after the other; past the end lie kMaxVectors more
// that may be asked for.
struct Soon {
  const char* const* next;
  const char* const* end;
  Asking pace;

  Asking now() const { return next < end ? pace : Asking::kNothing; }
};

// Logits of `rows` <= kMaxRows rows with any number of blocks; maxima[r], lane by lane, grow by them.
inline void multiply_k(const Numbers* q, int rows, int64_t head_dim, const char* const* k,
                       int num_blocks, Soon& soon, float* logits, int64_t logits_stride,
                       __m512* maxima) {
  const int most = most_vectors(rows);
  for (int b = 0, width; b < num_blocks; b += width) {
    width = num_blocks - b < most ? num_blocks - b : most;
    const Asking asking = soon.now();
    logits_tile_for(asking, rows, width)(q, head_dim, k + b, soon.next, logits + b * kLanes,
                                         logits_stride, maxima);
    soon.next += asking == Asking::kNothing ? 0 : asking == Asking::kOne ? 1 : width;
  }
}

// The weighted sum of any number of blocks' V, added to `out` after it is scaled by `factors`.
// ahead: as many blocks to be asked for, or nullptr.
inline void multiply_v(const Numbers* weights, int64_t weights_stride, int rows,
                       const char* const* v, const char* const* ahead, int num_blocks,
                       int64_t head_dim, const float* factors, float* out) {
  const int64_t vectors = head_dim / 16, most = most_vectors(rows);
  const int64_t parts = (vectors + most - 1) / most;
  const auto& tiles = ahead ? kValuesTiles<Asking::kAsMany> : kValuesTiles<Asking::kNothing>;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = vectors * part / parts, end = vectors * (part + 1) / parts;
    tiles[(rows - 1) * kMaxVectors + (end - first) - 1](
        weights, weights_stride, v, ahead, num_blocks, first * 16, head_dim, factors, out);
  }
}

}  // namespace treeserve
