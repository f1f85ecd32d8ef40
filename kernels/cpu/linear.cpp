// Linear layers: products of rows of bfloat16 with a packed weight of bfloat16 or of int8.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "kept.h"
#include "numbers.h"
#include "panels.h"

namespace treeserve {

struct Linear {
  const Numbers* states;  // [num_rows, in_features], so many numbers from row to row
  int64_t states_row;
  const char* panels;     // as in panels.h, on a boundary of 64 bytes
  const float* scales;    // [out_features] of a weight of int8; nullptr: it is of bfloat16
  const Numbers* bias;    // [out_features] or nullptr
  Numbers* out;           // [num_rows, out_features], without gaps
  int64_t num_rows, in_features, out_features, num_threads;
};

// Of states that a thread goes through again and again, once with each panel: they stay in the last
// cache, a panel in the second.
constexpr int64_t kMostStateBytes = 4096 * 1024;
constexpr int64_t kSoon = 8192;  // bytes

// Smaller numbers are taken for nothing: what they would be divided by has no inverse.
constexpr float kSmallest = 1e-30f;

// Rows of int16, and for each segment of a row what its numbers are to be multiplied by.
struct Rounded {
  Kept<int16_t> numbers;
  Kept<float> scales;
};

// The largest number of a segment becomes 32767. What is not finite makes the scale NaN, and so all
// of the row's products.
void round_segment(const Numbers* states, int64_t count, int16_t* out, float* scale) {
  __m256i largest = _mm256_setzero_si256();
  const __m256i magnitude = _mm256_set1_epi16(0x7FFF);
  for (int64_t i = 0; i < count; i += 16)
    largest = _mm256_max_epu16(largest, _mm256_and_si256(load_bits(states + i, count - i), magnitude));
  alignas(32) uint16_t lanes[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  const uint32_t bits = uint32_t{*std::max_element(lanes, lanes + 16)} << 16;
  float maximum;
  std::memcpy(&maximum, &bits, sizeof maximum);
  const bool is_finite = bits < 0x7F800000u;
  *scale = is_finite ? maximum / kLargest : std::numeric_limits<float>::quiet_NaN();
  const bool is_zero = !is_finite || maximum < kSmallest;
  const __m512 factor = _mm512_set1_ps(is_zero ? 0.0f : kLargest / maximum);
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 x = is_zero ? _mm512_setzero_ps() : load_numbers(states + i, count - i);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
    _mm256_mask_storeu_epi16(out + i, first_lanes(count - i), _mm512_cvtsepi32_epi16(whole));
  }
}

class LinearWork {
 public:
  LinearWork(const Linear& linear, Rounded& rounded)
      : linear_(linear), segments_(num_segments(linear.in_features)) {
    if (!linear.scales) return;
    numbers_ = rounded.numbers.at_least(linear.num_rows * linear.in_features);
    scales_ = rounded.scales.at_least(linear.num_rows * segments_);
  }

  void round_row(int64_t row) const {
    for (int64_t segment = 0; segment < segments_; ++segment) {
      const int64_t start = segment * kSegment;
      const int64_t count = std::min(kSegment, linear_.in_features - start);
      round_segment(linear_.states + row * linear_.states_row + start, count,
                    numbers_ + row * linear_.in_features + start,
                    scales_ + row * segments_ + segment);
    }
  }

  // As even tiles as can be, one after the other with the same panel.
  void run(int64_t panel, int64_t first, int64_t end) const {
    const int64_t rows = end - first, tiles = (rows + kTileRows - 1) / kTileRows;
    alignas(64) float sums[kTileRows * kPanel];
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = first + rows * tile / tiles, to = first + rows * (tile + 1) / tiles;
      const int count = static_cast<int>(to - from);
      if (tiles == 1)
        multiply<kBfloat16Lines, kInt8Lines>(panel, from, count, ahead(panel, tile, tiles), sums);
      else
        multiply<1, 1>(panel, from, count, ahead(panel, tile, tiles), sums);
      for (int64_t row = from; row < to; ++row) write(panel, row, sums + (row - from) * kPanel);
    }
  }

 private:
  int64_t panel_bytes() const {
    return kPanel * linear_.in_features * (linear_.scales ? 1 : 2);
  }

  // One tile asks for what comes soon. Of several each asks for its share of the panel that this
  // thread takes next, if all threads are equally fast, so that memory is busy all the time.
  Ahead ahead(int64_t panel, int64_t tile, int64_t tiles) const {
    const int64_t pairs = linear_.in_features / 2;
    if (tiles == 1) return {linear_.panels + panel * panel_bytes() + kSoon, panel_bytes() / pairs};
    const int64_t panels = (linear_.out_features + kPanel - 1) / kPanel;
    const int64_t next = std::min(panel + linear_.num_threads, panels - 1);
    const int64_t step = panel_bytes() / pairs / tiles;
    return {linear_.panels + next * panel_bytes() + tile * step * pairs, step};
  }

  template <int BFLOAT16_LINES, int INT8_LINES>
  void multiply(int64_t panel, int64_t row, int count, Ahead ahead, float* sums) const {
    const int64_t in = linear_.in_features;
    const char* weight = linear_.panels + panel * panel_bytes();
    if (linear_.scales) {
      kInt8Tiles<INT8_LINES>[count - 1](numbers_ + row * in, in, in, weight, ahead,
                                        scales_ + row * segments_, sums);
    } else {
      kBfloat16Tiles<BFLOAT16_LINES>[count - 1](linear_.states + row * linear_.states_row,
                                                linear_.states_row, in, weight, ahead, sums);
    }
  }

  // Rounded once, the bias added before.
  void write(int64_t panel, int64_t row, const float* sums) const {
    const int64_t out = linear_.out_features;
    for (int64_t i = panel * kPanel; i < std::min(out, (panel + 1) * kPanel); i += 16) {
      __m512 x = _mm512_load_ps(sums + i - panel * kPanel);
      if (linear_.scales)
        x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(first_lanes(out - i), linear_.scales + i));
      if (linear_.bias) x = _mm512_add_ps(x, load_numbers(linear_.bias + i, out - i));
      store_numbers(linear_.out + row * out + i, x, out - i);
    }
  }

  const Linear& linear_;
  int64_t segments_;
  int16_t* numbers_ = nullptr;
  float* scales_ = nullptr;
};

void multiply_rows(const Linear& linear) {
  thread_local Rounded rounded;
  const LinearWork work(linear, rounded);
  const int64_t panels = (linear.out_features + kPanel - 1) / kPanel;
  const int64_t fitting = kMostStateBytes / (2 * linear.in_features) / kTileRows * kTileRows;
  const int64_t rows = std::max<int64_t>(fitting, 4 * kTileRows);
  const int64_t parts = (linear.num_rows + rows - 1) / rows;
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(linear.num_threads))
  {
    if (linear.scales) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < linear.num_rows; ++row) work.round_row(row);
    }
    // Whoever is free takes the next; all threads go through the same rows.
    for (int64_t i = next++; i < parts * panels; i = next++) {
      const int64_t part = i / panels;
      work.run(i % panels, linear.num_rows * part / parts, linear.num_rows * (part + 1) / parts);
    }
  }
}

}  // namespace treeserve

extern "C" void treeserve_linear(const uint16_t* states, int64_t states_row, const char* panels,
                                 const float* scales, const uint16_t* bias, uint16_t* out,
                                 int64_t num_rows, int64_t in_features, int64_t out_features,
                                 int64_t num_threads) {
  treeserve::multiply_rows({states, states_row, panels, scales, bias, out, num_rows, in_features,
                            out_features, num_threads});
}
