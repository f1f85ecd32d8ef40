// What a layer does to rows between its products, each in one pass, rounded where transformers rounds.
#include <omp.h>

#include <cmath>

#include "numbers.h"

namespace treeserve {

// Fewer numbers are not worth waking other threads for.
constexpr int64_t kNumbersPerThread = 16 * 1024;

// All threads or one: libgomp ends those that a smaller team has no place for.
inline int threads_for(int64_t numbers, int64_t num_threads) {
  return numbers < 2 * kNumbersPerThread ? 1 : static_cast<int>(num_threads);
}

// weight * x / sqrt(mean(x^2) + epsilon), rounded before and after the weight.
void normalise(const uint16_t* x, const uint16_t* weight, uint16_t* out, int64_t size,
               float epsilon) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 part = load_numbers(x + i, size - i);
    squares = _mm512_fmadd_ps(part, part, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(size);
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(mean + epsilon));
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 part = round_numbers(_mm512_mul_ps(load_numbers(x + i, size - i), scale));
    store_numbers(out + i, _mm512_mul_ps(part, load_numbers(weight + i, size - i)), size - i);
  }
}

// x * cos + turned(x) * sin, where the halves of a head turn into (-second, first).
void rotate(uint16_t* head, const uint16_t* cos, const uint16_t* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t left = half - i;
    const __m512 first = load_numbers(head + i, left), second = load_numbers(head + half + i, left);
    const auto times = [&](__m512 x, const uint16_t* y) {
      return round_numbers(_mm512_mul_ps(x, load_numbers(y, left)));
    };
    const __m512 low = _mm512_sub_ps(times(first, cos + i), times(second, sin + i));
    const __m512 high = _mm512_add_ps(times(second, cos + half + i), times(first, sin + half + i));
    store_numbers(head + i, low, left);
    store_numbers(head + half + i, high, left);
  }
}

}  // namespace treeserve

extern "C" {

// x, out: [num_rows, size] without gaps.
void treeserve_normalise(const uint16_t* x, const uint16_t* weight, uint16_t* out, int64_t num_rows,
                         int64_t size, double epsilon, int64_t num_threads) {
  const int threads = treeserve::threads_for(num_rows * size, num_threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < num_rows; ++row)
    treeserve::normalise(x + row * size, weight, out + row * size, size,
                         static_cast<float>(epsilon));
}

// In place, the first num_heads heads of each row; cos, sin: [num_rows, head_dim] without gaps.
void treeserve_rotate(uint16_t* x, int64_t x_row, const uint16_t* cos, const uint16_t* sin,
                      int64_t num_rows, int64_t num_heads, int64_t head_dim, int64_t num_threads) {
  const int threads = treeserve::threads_for(num_rows * num_heads * head_dim, num_threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t head = 0; head < num_heads; ++head)
      treeserve::rotate(x + row * x_row + head * head_dim, cos + row * head_dim,
                        sin + row * head_dim, head_dim);
}
}
