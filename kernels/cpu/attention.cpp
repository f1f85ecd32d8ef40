// One layer's attention over a step's plan: K and V are stored, units worked through, states merged.
#include <omp.h>

#include <atomic>
#include <memory>

#include "kept.h"
#include "layout.h"
#include "plan.h"
#include "product.h"
#include "softmax.h"

namespace treeserve {

// One layer. Strides are in numbers; a head's dimensions lie side by side everywhere.
struct Layer {
  const Numbers* q;  // [num_rows, num_heads, head_dim]
  const Numbers* k;  // [num_rows, num_kv_heads, head_dim]
  const Numbers* v;
  Numbers* out;      // [num_rows, num_heads, head_dim], without gaps
  char* k_blocks;    // [num_blocks, num_kv_heads, ...] as in layout.h
  char* v_blocks;
  const int32_t* write_slots;  // [num_rows], negative: nothing is written
  const float* sinks;          // [num_heads] or nullptr
  int64_t q_row, q_head, k_row, k_head, v_row, v_head;
  int64_t num_rows, num_kv_heads, group, head_dim;
  int64_t num_threads;
  double scaling;
  double softcap;  // 0: none

  int64_t num_heads() const { return num_kv_heads * group; }
};

// Tokens that one tile of rows takes from K to V: its logits stay in the first-level cache, K and V in
// the second. More would save little of what a row's softmax costs once a chunk.
constexpr int kBlocksPerChunk = 32;
constexpr int kChunk = kBlocksPerChunk * kLanes;

struct Scratch {
  Kept<Numbers> q;        // [pairs, head_dim]
  Kept<float> out;        // [pairs, head_dim]
  Kept<RowSoftmax> rows;  // [pairs]
  Kept<Numbers> values;   // V blocks of which only some lanes are read
  alignas(64) float logits[kMaxRows * kChunk];
  alignas(64) Numbers weights[kMaxRows * kChunk];
};

struct Workspace {
  Kept<float> o;    // [num_states, num_heads, head_dim]
  Kept<float> lse;  // [num_states, num_heads]
  std::vector<std::unique_ptr<Scratch>> scratch;  // of each thread
};

class Work {
 public:
  Work(const Layer& layer, const Plan& plan, Workspace& workspace)
      : layer_(layer), plan_(plan), logits_(make_logits(layer.scaling, layer.softcap)),
        o_(workspace.o.at_least(plan.num_states * layer.num_heads() * layer.head_dim)),
        lse_(workspace.lse.at_least(plan.num_states * layer.num_heads())) {}

  void store_row(int64_t row) const {
    const int32_t slot = layer_.write_slots[row];
    if (slot < 0) return;
    const int64_t dim = layer_.head_dim, bytes = block_bytes(dim);
    const int64_t first = slot / kLanes * layer_.num_kv_heads;
    for (int64_t head = 0; head < layer_.num_kv_heads; ++head) {
      const int64_t offset = (first + head) * bytes;
      const Numbers* k = layer_.k + row * layer_.k_row + head * layer_.k_head;
      const Numbers* v = layer_.v + row * layer_.v_row + head * layer_.v_head;
      store_k(k, layer_.k_blocks + offset, slot % kLanes, dim);
      store_v(v, layer_.v_blocks + offset, slot % kLanes, dim);
    }
  }

  void run_unit(const Unit& unit, int64_t kv_head, Scratch& scratch) const {
    const int64_t pairs = unit.num_rows * layer_.group, dim = layer_.head_dim;
    Numbers* q = scratch.q.at_least(pairs * dim);
    float* out = scratch.out.at_least(pairs * dim);
    RowSoftmax* rows = scratch.rows.at_least(pairs);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      std::memcpy(q + pair * dim, query(unit, pair, kv_head), dim * sizeof(Numbers));
      rows[pair] = RowSoftmax();
    }
    std::memset(out, 0, pairs * dim * sizeof(float));
    for (int32_t piece = unit.first_piece; piece < unit.end_piece; piece += kBlocksPerChunk) {
      const int32_t end = std::min(unit.end_piece, piece + kBlocksPerChunk);
      run_chunk(unit, kv_head, piece, end - piece, scratch, q, out, rows);
    }
    for (int64_t pair = 0; pair < pairs; ++pair)
      finish(unit, pair, kv_head, rows[pair], out + pair * dim);
  }

  void merge_row(int64_t row, Scratch& scratch) const {
    const int32_t start = plan_.row_state_starts[row], end = plan_.row_state_starts[row + 1];
    if (end - start == 1) return;  // the unit wrote it
    float* sums = scratch.out.at_least(layer_.head_dim);
    for (int64_t head = 0; head < layer_.num_heads(); ++head) merge(row, head, start, end, sums);
  }

 private:
  const Numbers* query(const Unit& unit, int64_t pair, int64_t kv_head) const {
    const int64_t row = plan_.rows[unit.first_row + pair / layer_.group];
    const int64_t head = kv_head * layer_.group + pair % layer_.group;
    return layer_.q + row * layer_.q_row + head * layer_.q_head;
  }

  void run_chunk(const Unit& unit, int64_t kv_head, int32_t first, int num_blocks,
                 Scratch& scratch, const Numbers* q, float* out, RowSoftmax* rows) const {
    const int64_t pairs = unit.num_rows * layer_.group, dim = layer_.head_dim;
    const char *k[kBlocksPerChunk], *v[kBlocksPerChunk];
    const Piece* pieces = plan_.pieces.data() + first;
    bool masked = false;
    for (int b = 0; b < num_blocks; ++b) {
      const int64_t offset =
          (int64_t{pieces[b].block} * layer_.num_kv_heads + kv_head) * block_bytes(dim);
      k[b] = layer_.k_blocks + offset;
      v[b] = layer_.v_blocks + offset;
      if (pieces[b].lanes != kAllLanes) v[b] = only_lanes(v[b], pieces[b].lanes, b, scratch);
      masked |= pieces[b].lanes != kAllLanes || is_seen_in_part(pieces[b], unit);
    }
    // As even tiles as can be: eight pairs are four and four. Six rows make the best tile; seven are
    // one tile all the same.
    const int64_t most = pairs <= kMaxRows ? kMaxRows : kMaxRows - 1;
    const int64_t tiles = (pairs + most - 1) / most;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = pairs * tile / tiles, to = pairs * (tile + 1) / tiles;
      const int count = static_cast<int>(to - from);
      multiply_k(q + from * dim, count, dim, k, num_blocks, scratch.logits, kChunk);
      float factors[kMaxRows];
      for (int r = 0; r < count; ++r) {
        uint16_t lanes[kBlocksPerChunk];
        if (masked) see(pieces, num_blocks, position(unit, from + r), lanes);
        factors[r] = take_blocks(rows[from + r], scratch.logits + r * kChunk, num_blocks, logits_,
                                 masked ? lanes : nullptr, scratch.weights + r * kChunk);
      }
      multiply_v(scratch.weights, kChunk, count, v, num_blocks, dim, factors, out + from * dim);
    }
  }

  // A copy of V with nothing in the other lanes: they may hold what is not a number, of which even
  // a weight of zero would make one.
  const char* only_lanes(const char* v, uint32_t lanes, int index, Scratch& scratch) const {
    const int64_t numbers = kLanes * layer_.head_dim;
    auto* copy = scratch.values.at_least(kBlocksPerChunk * numbers) + index * numbers;
    const auto* from = reinterpret_cast<const uint32_t*>(v);
    auto* to = reinterpret_cast<uint32_t*>(copy);
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      const uint32_t two = lanes >> (2 * pair);
      const uint32_t kept = (two & 1 ? 0xFFFFu : 0) | (two & 2 ? 0xFFFF0000u : 0);
      for (int64_t i = 0; i < layer_.head_dim; ++i)
        to[pair * layer_.head_dim + i] = from[pair * layer_.head_dim + i] & kept;
    }
    return reinterpret_cast<const char*>(copy);
  }

  bool is_seen_in_part(const Piece& piece, const Unit& unit) const {
    return piece.last_position() > unit.lowest ||
           (plan_.window && piece.first_position() <= unit.highest - plan_.window);
  }

  int32_t position(const Unit& unit, int64_t pair) const {
    return plan_.positions[unit.first_row + pair / layer_.group];
  }

  // The lanes that a row at this position sees.
  void see(const Piece* pieces, int num_blocks, int64_t position, uint16_t* lanes) const {
    for (int b = 0; b < num_blocks; ++b) {
      const int64_t until = std::clamp<int64_t>(position - pieces[b].base + 1, 0, kLanes);
      uint32_t seen = pieces[b].lanes & ((1u << until) - 1);
      if (plan_.window) {
        const int64_t oldest = position - plan_.window + 1 - pieces[b].base;
        seen &= ~0u << std::clamp<int64_t>(oldest, 0, kLanes);
      }
      lanes[b] = static_cast<uint16_t>(seen);
    }
  }

  // A row's only state is its result; any other is merged later.
  void finish(const Unit& unit, int64_t pair, int64_t kv_head, const RowSoftmax& softmax,
              const float* sums) const {
    const int64_t row = plan_.rows[unit.first_row + pair / layer_.group];
    const int64_t head = kv_head * layer_.group + pair % layer_.group;
    float sum = softmax.sum();
    if (plan_.row_state_starts[row + 1] - plan_.row_state_starts[row] == 1) {
      float scale = 1.0f;
      if (layer_.sinks && sum > 0) {
        const float sink = layer_.sinks[head] * kLog2E;
        const float maximum = std::fmax(softmax.maximum, sink);
        scale = std::exp2(softmax.maximum - maximum);
        sum = sum * scale + std::exp2(sink - maximum);
      }
      write(row, head, sums, sum == 0 ? 0.0f : scale / sum);
      return;
    }
    const int64_t state = unit.first_state + pair / layer_.group;
    const int64_t index = state * layer_.num_heads() + head;
    lse_[index] = sum == 0 ? kMinusInfinity : (softmax.maximum + std::log2(sum)) * kLn2;
    const __m512 scale = _mm512_set1_ps(sum == 0 ? 0.0f : 1.0f / sum);
    float* o = o_ + index * layer_.head_dim;
    for (int64_t i = 0; i < layer_.head_dim; i += 16)
      _mm512_storeu_ps(o + i, _mm512_mul_ps(_mm512_loadu_ps(sums + i), scale));
  }

  void write(int64_t row, int64_t head, const float* sums, float factor) const {
    Numbers* out = layer_.out + (row * layer_.num_heads() + head) * layer_.head_dim;
    const __m512 scale = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < layer_.head_dim; i += 16)
      _mm256_storeu_si256(
          reinterpret_cast<__m256i*>(out + i),
          (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + i), scale)));
  }

  void merge(int64_t row, int64_t head, int32_t start, int32_t end, float* sums) const {
    const int64_t heads = layer_.num_heads(), dim = layer_.head_dim;
    float maximum = layer_.sinks ? layer_.sinks[head] : kMinusInfinity;
    for (int32_t i = start; i < end; ++i)
      maximum = std::fmax(maximum, lse_[plan_.row_states[i] * heads + head]);
    if (maximum == kMinusInfinity) maximum = 0;
    float denominator = layer_.sinks ? std::exp(layer_.sinks[head] - maximum) : 0.0f;
    std::memset(sums, 0, dim * sizeof(float));
    for (int32_t i = start; i < end; ++i) {
      const int64_t index = plan_.row_states[i] * heads + head;
      const float weight = std::exp(lse_[index] - maximum);
      denominator += weight;
      const float* o = o_ + index * dim;
      for (int64_t d = 0; d < dim; d += 16)
        _mm512_storeu_ps(sums + d, _mm512_fmadd_ps(_mm512_loadu_ps(o + d), _mm512_set1_ps(weight),
                                                   _mm512_loadu_ps(sums + d)));
    }
    write(row, head, sums, denominator == 0 ? 0.0f : 1.0f / denominator);
  }

  const Layer& layer_;
  const Plan& plan_;
  Logits logits_;
  float* o_;
  float* lse_;
};

void attend(const Layer& layer, const Plan& plan, Workspace& workspace) {
  const Work work(layer, plan, workspace);
  while (workspace.scratch.size() < static_cast<size_t>(layer.num_threads))
    workspace.scratch.push_back(std::make_unique<Scratch>());
  const int64_t num_units = static_cast<int64_t>(plan.units.size()) * layer.num_kv_heads;
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(layer.num_threads))
  {
    Scratch& scratch = *workspace.scratch[omp_get_thread_num()];
#pragma omp for schedule(static)
    for (int64_t row = 0; row < layer.num_rows; ++row) work.store_row(row);
    // Whoever is free takes the next; each output has one unit that writes it.
    for (int64_t i = next++; i < num_units; i = next++)
      work.run_unit(plan.units[i / layer.num_kv_heads], i % layer.num_kv_heads, scratch);
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t row = 0; row < layer.num_rows; ++row) work.merge_row(row, scratch);
  }
}

}  // namespace treeserve

extern "C" {

treeserve::Plan* treeserve_make_plan(const treeserve::StepArrays* step) {
  return new treeserve::Plan(treeserve::PlanMaker(*step).make());
}

void treeserve_free_plan(treeserve::Plan* plan) { delete plan; }

treeserve::Workspace* treeserve_make_workspace() { return new treeserve::Workspace(); }

void treeserve_free_workspace(treeserve::Workspace* workspace) { delete workspace; }

void treeserve_attend(const treeserve::Layer* layer, const treeserve::Plan* plan,
                      treeserve::Workspace* workspace) {
  treeserve::attend(*layer, *plan, *workspace);
}
}
