// Linear layers: products of rows of bfloat16 with a packed weight of bfloat16 or of int8.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "gate.h"
#include "kept.h"
#include "numbers.h"
#include "panels.h"

namespace treeserve {

struct Linear {
  const Numbers* states;  // [num_rows, in_features], so many numbers from row to row
  int64_t states_row;
  const char* panels;     // as in panels.h, on a boundary of 64 bytes
  const float* scales;    // of the outputs of a weight of int8; nullptr: it is of bfloat16
  const Numbers* bias;    // of the outputs, or nullptr
  Numbers* out;           // [num_rows, out_features], without gaps
  int64_t num_rows, in_features, out_features, num_threads;
};

// Of states that a thread goes through again and again, once with each panel: they stay in the last
// cache, a panel in the second.
constexpr int64_t kMostStateBytes = 4096 * 1024;
constexpr int64_t kSoon = 8192;  // bytes
// Inputs of a panel that all tiles of rows go through before others are read: of long ones two blocks,
// the other being asked for, stay in the second cache. Whole segments.
constexpr int64_t kMostInputs = 1024;
static_assert(kMostInputs % kSegment == 0);

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

// What a thread keeps from call to call.
struct ThreadScratch {
  Kept<float> sums;
  Kept<Numbers> gates;
};

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

  // Of the results, and so of the weight, which has as many ups as gates where there are gates.
  int64_t num_panels() const { return (linear_.out_features + kPanel - 1) / kPanel; }

  // Rows [first, end) with a panel of outputs, rounded once, the bias added before.
  void run(int64_t panel, int64_t first, int64_t end, ThreadScratch& scratch) const {
    multiply({panel, later_panel(panel)}, first, end, scratch,
             [&](int64_t row, const float* sums) {
               for (int64_t i = 0; i < kPanel; i += 16)
                 store(row, panel, i, result(sums, panel, i, 0));
             });
  }

  // With a panel of gates and that of their ups: silu(gate) * up, each rounded as by itself.
  void run_gated(int64_t panel, int64_t first, int64_t end, ThreadScratch& scratch) const {
    const int64_t up = num_panels() + panel;
    Numbers* gates = scratch.gates.at_least((end - first) * kPanel);
    multiply({panel, up}, first, end, scratch, [&](int64_t row, const float* sums) {
      for (int64_t i = 0; i < kPanel; i += 16)
        store_numbers(gates + (row - first) * kPanel + i, result(sums, panel, i, 0), 16);
    });
    multiply({up, later_panel(panel)}, first, end, scratch, [&](int64_t row, const float* sums) {
      for (int64_t i = 0; i < kPanel; i += 16) {
        const __m512 x = load_numbers(gates + (row - first) * kPanel + i, 16);
        const __m512 y = round_numbers(result(sums, panel, i, linear_.out_features));
        store(row, panel, i, gate(x, y));
      }
    });
  }

 private:
  struct Order {
    int64_t panel, next;  // and what this thread reads after it
  };

  int64_t input_bytes() const { return kPanel * (linear_.scales ? 1 : 2); }

  const char* address(int64_t panel, int64_t input) const {
    return linear_.panels + (panel * linear_.in_features + input) * input_bytes();
  }

  // Even blocks of whole segments; one tile goes through a panel from its beginning to its end.
  int64_t block_inputs(int64_t tiles) const {
    const int64_t in = linear_.in_features, blocks = (in + kMostInputs - 1) / kMostInputs;
    if (tiles == 1) return in;
    return num_segments((in + blocks - 1) / blocks) * kSegment;
  }

  // As even tiles as can be, one after the other with the same block of a panel's inputs. `write` is
  // given each row and its sums.
  template <typename Write>
  void multiply(Order order, int64_t first, int64_t end, ThreadScratch& scratch,
                Write write) const {
    const int64_t rows = end - first, tiles = (rows + kTileRows - 1) / kTileRows;
    const int64_t in = linear_.in_features, block = block_inputs(tiles);
    float* kept = scratch.sums.at_least((block < in ? rows : kTileRows) * kPanel);
    for (int64_t start = 0; start < in; start += block) {
      const Inputs inputs{start, std::min(block, in - start), block};
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t from = first + rows * tile / tiles, to = first + rows * (tile + 1) / tiles;
        float* sums = kept + (block < in ? from - first : 0) * kPanel;
        const Tile now{order.panel, from, static_cast<int>(to - from)};
        const Ahead ahead = ahead_of(order, inputs, tile, tiles);
        if (tiles == 1)
          multiply_tile<kBfloat16Lines, kInt8Lines>(now, inputs, ahead, sums);
        else if (tiles < kBfloat16Lines)
          multiply_tile<2, 1>(now, inputs, ahead, sums);
        else
          multiply_tile<1, 1>(now, inputs, ahead, sums);
        if (start + block < in) continue;
        for (int64_t row = from; row < to; ++row) write(row, sums + (row - from) * kPanel);
      }
    }
  }

  struct Inputs {
    int64_t start, count;
    int64_t most;  // of a block
  };

  struct Tile {
    int64_t panel, row;
    int count;
  };

  // One tile asks for what comes soon. Of several each asks for its share of the next block, so that
  // memory is busy all the time.
  Ahead ahead_of(Order order, Inputs inputs, int64_t tile, int64_t tiles) const {
    const int64_t bytes = input_bytes(), end = inputs.start + inputs.count;
    if (tiles == 1) return {address(order.panel, 0) + kSoon, 2 * bytes};
    const bool is_last = end == linear_.in_features;
    const char* next = is_last ? address(order.next, 0) : address(order.panel, end);
    const int64_t left = is_last ? linear_.in_features : linear_.in_features - end;
    const int64_t share = std::min(inputs.most, left) * bytes / tiles;
    return {next + tile * share, share * 2 / inputs.count};
  }

  template <int BFLOAT16_LINES, int INT8_LINES>
  void multiply_tile(Tile tile, Inputs inputs, Ahead ahead, float* sums) const {
    const int64_t in = linear_.in_features, start = inputs.start;
    const char* weight = address(tile.panel, start);
    const bool is_first = start == 0;
    if (linear_.scales) {
      kInt8Tiles<INT8_LINES>[tile.count - 1](
          numbers_ + tile.row * in + start, in, inputs.count, weight, ahead,
          scales_ + tile.row * segments_ + start / kSegment, segments_, is_first, sums);
    } else {
      kBfloat16Tiles<BFLOAT16_LINES>[tile.count - 1](
          linear_.states + tile.row * linear_.states_row + start, linear_.states_row, inputs.count,
          weight, ahead, is_first, sums);
    }
  }

  // If all threads are equally fast, what this one takes after a panel.
  int64_t later_panel(int64_t panel) const {
    return std::min(panel + linear_.num_threads, num_panels() - 1);
  }

  // Sixteen results of a panel from i on; its outputs' scales and biases begin at `offset`.
  __m512 result(const float* sums, int64_t panel, int64_t i, int64_t offset) const {
    const int64_t output = panel * kPanel + i, left = linear_.out_features - output;
    __m512 x = _mm512_load_ps(sums + i);
    if (left <= 0) return x;
    const int64_t at = offset + output;
    if (linear_.scales)
      x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(first_lanes(left), linear_.scales + at));
    if (linear_.bias) x = _mm512_add_ps(x, load_numbers(linear_.bias + at, left));
    return x;
  }

  void store(int64_t row, int64_t panel, int64_t i, __m512 x) const {
    const int64_t output = panel * kPanel + i, left = linear_.out_features - output;
    if (left > 0) store_numbers(linear_.out + row * linear_.out_features + output, x, left);
  }

  const Linear& linear_;
  int64_t segments_;
  int16_t* numbers_ = nullptr;
  float* scales_ = nullptr;
};

// Whoever is free takes the next panel; all threads go through the same rows.
template <typename Run>
void multiply_rows(const Linear& linear, const LinearWork& work, Run run) {
  const int64_t panels = work.num_panels();
  const int64_t fitting = kMostStateBytes / (2 * linear.in_features) / kTileRows * kTileRows;
  const int64_t rows = std::max<int64_t>(fitting, 4 * kTileRows);
  const int64_t parts = (linear.num_rows + rows - 1) / rows;
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(linear.num_threads))
  {
    thread_local ThreadScratch scratch;
    if (linear.scales) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < linear.num_rows; ++row) work.round_row(row);
    }
    for (int64_t i = next++; i < parts * panels; i = next++) {
      const int64_t part = i / panels;
      run(i % panels, linear.num_rows * part / parts, linear.num_rows * (part + 1) / parts,
          scratch);
    }
  }
}

void multiply(const Linear& linear, bool is_gated) {
  thread_local Rounded rounded;
  const LinearWork work(linear, rounded);
  if (is_gated)
    multiply_rows(linear, work, [&](auto&&... piece) { work.run_gated(piece...); });
  else
    multiply_rows(linear, work, [&](auto&&... piece) { work.run(piece...); });
}

}  // namespace treeserve

// is_gated: the weight has so many gates and then as many ups, in panels of their own, as have scales
// and bias; the results are silu(gate) * up.
extern "C" void treeserve_linear(const uint16_t* states, int64_t states_row, const char* panels,
                                 const float* scales, const uint16_t* bias, uint16_t* out,
                                 int64_t num_rows, int64_t in_features, int64_t out_features,
                                 int64_t is_gated, int64_t num_threads) {
  treeserve::multiply({states, states_row, panels, scales, bias, out, num_rows, in_features,
                       out_features, num_threads},
                      is_gated);
}
