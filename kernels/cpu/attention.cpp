// One layer's attention over a step's plan: K and V are stored, units worked through, states merged.
#include <omp.h>

#include <atomic>
#include <memory>

#include "chunks.h"
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

// A state on its way into a row's result.
struct Weighted {
  float weight;
  const float* o;
};

struct Scratch {
  Kept<Numbers> q;        // [pairs, head_dim]
  Kept<float> out;        // [pairs, head_dim]
  Kept<RowSoftmax> rows;  // [pairs]
  Kept<Weighted> states;  // of one row and head
  Reading reading;
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
        chunks_(plan, layer.k_blocks, layer.v_blocks, layer.num_kv_heads, layer.head_dim),
        o_(workspace.o.at_least(plan.num_states * layer.num_heads() * layer.head_dim)),
        lse_(workspace.lse.at_least(plan.num_states * layer.num_heads())) {}

  void store_row(int64_t row) const {
    const int32_t slot = layer_.write_slots[row];
    if (slot < 0) return;
    const int64_t dim = layer_.head_dim, bytes = block_bytes(dim);
    const int64_t first = int64_t{slot / kLanes} * layer_.num_kv_heads;
    for (int64_t head = 0; head < layer_.num_kv_heads; ++head) {
      const int64_t offset = (first + head) * bytes;
      const Numbers* k = layer_.k + row * layer_.k_row + head * layer_.k_head;
      const Numbers* v = layer_.v + row * layer_.v_row + head * layer_.v_head;
      store_k(k, layer_.k_blocks + offset, slot % kLanes, dim);
      store_v(v, layer_.v_blocks + offset, slot % kLanes, dim);
    }
  }

  // A turn's jobs, each a unit with one KV head. If all threads are equally fast, this one goes on with
  // the turn as many further on as there are threads.
  void run_turn(int64_t turn, Scratch& scratch) const {
    const auto& starts = plan_.turn_starts;
    const int64_t last = static_cast<int64_t>(starts.size()) - 2;
    const int64_t after = starts[std::min(turn + layer_.num_threads, last)];
    for (int64_t job = starts[turn], end = starts[turn + 1]; job < end; ++job) {
      const int64_t next = job + 1 < end ? job + 1 : after, heads = layer_.num_kv_heads;
      run_unit(plan_.units[job / heads], job % heads,
               chunks_.at(plan_.units[next / heads], next % heads, 0), scratch);
    }
  }

  // next: the chunk that this thread will probably read then.
  void run_unit(const Unit& unit, int64_t kv_head, const Chunk& next, Scratch& scratch) const {
    const int64_t pairs = unit.num_rows * layer_.group, dim = layer_.head_dim;
    Numbers* q = scratch.q.at_least(pairs * dim);
    float* out = scratch.out.at_least(pairs * dim);
    RowSoftmax* rows = scratch.rows.at_least(pairs);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      std::memcpy(q + pair * dim, query(unit, pair, kv_head), dim * sizeof(Numbers));
      rows[pair] = RowSoftmax();
    }
    std::memset(out, 0, pairs * dim * sizeof(float));
    Chunk chunk = chunks_.at(unit, kv_head, 0);
    for (int32_t index = 1; chunk.num_blocks() > 0; ++index) {
      const Chunk following = chunks_.at(unit, kv_head, index);
      run_chunk(chunk, following.num_blocks() > 0 ? following : next, scratch, q, out, rows);
      chunk = following;
    }
    for (int64_t pair = 0; pair < pairs; ++pair)
      finish(unit, pair, kv_head, rows[pair], out + pair * dim);
  }

  void merge_row(int64_t row, Scratch& scratch) const {
    const int32_t start = plan_.row_state_starts[row], end = plan_.row_state_starts[row + 1];
    if (end - start == 1) return;  // the unit wrote it
    Weighted* states = scratch.states.at_least(end - start);
    for (int64_t head = 0; head < layer_.num_heads(); ++head) merge(row, head, start, end, states);
  }

 private:
  const Numbers* query(const Unit& unit, int64_t pair, int64_t kv_head) const {
    const int64_t row = plan_.rows[unit.first_row + pair / layer_.group];
    const int64_t head = kv_head * layer_.group + pair % layer_.group;
    return layer_.q + row * layer_.q_row + head * layer_.q_head;
  }

  int32_t position(const Unit& unit, int64_t row) const {
    return plan_.positions[unit.first_row + row];
  }

  void run_chunk(const Chunk& chunk, const Chunk& next, Scratch& scratch, const Numbers* q,
                 float* out, RowSoftmax* rows) const {
    const int64_t pairs = chunk.unit->num_rows * layer_.group, dim = layer_.head_dim;
    // As even tiles as can be: eight pairs are four and four. Six rows make the best tile; seven are
    // one tile all the same.
    const int64_t most = pairs <= kMaxRows ? kMaxRows : kMaxRows - 1;
    const int64_t tiles = (pairs + most - 1) / most;
    Reading& reading = scratch.reading;
    chunks_.start(chunk, next, tiles, reading);
    uint16_t lanes[kBlocksPerChunk];
    int64_t seeing = -1;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = pairs * tile / tiles, to = pairs * (tile + 1) / tiles;
      const int count = static_cast<int>(to - from);
      __m512 maxima[kMaxRows];
      multiply_with_k(q + from * dim, count, scratch, maxima);
      float factors[kMaxRows];
      for (int r = 0; r < count; ++r) {
        const int64_t row = (from + r) / layer_.group;
        if (row != seeing) chunks_.see(reading, position(*chunk.unit, row), lanes);
        seeing = row;
        factors[r] = take_products(rows[from + r],
                                   {scratch.logits + r * kChunk, reading.num_blocks,
                                    reading.num_whole, maxima[r], lanes},
                                   logits_, scratch.weights + r * kChunk);
      }
      multiply_v(scratch.weights, kChunk, count, reading.v(),
                 tiles == 1 ? reading.soon.next : nullptr, reading.num_blocks, dim, factors,
                 out + from * dim);
    }
  }

  // maxima: of each row's products with the blocks of which it sees all, lane by lane.
  void multiply_with_k(const Numbers* q, int count, Scratch& scratch, __m512* maxima) const {
    Reading& reading = scratch.reading;
    const int64_t dim = layer_.head_dim;
    __m512 unused[kMaxRows];
    std::fill_n(maxima, count, no_maxima());
    std::fill_n(unused, count, no_maxima());
    multiply_k(q, count, dim, reading.k(), reading.num_whole, reading.soon, scratch.logits, kChunk,
               maxima);
    multiply_k(q, count, dim, reading.k() + reading.num_whole, reading.num_rest(), reading.soon,
               scratch.logits + reading.num_whole * kLanes, kChunk, unused);
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
      store(out + i, _mm512_mul_ps(_mm512_loadu_ps(sums + i), scale));
  }

  // states: what the row's states are multiplied by and where they are, of each head anew.
  void merge(int64_t row, int64_t head, int32_t start, int32_t end, Weighted* states) const {
    const int64_t heads = layer_.num_heads(), dim = layer_.head_dim;
    float maximum = layer_.sinks ? layer_.sinks[head] : kMinusInfinity;
    for (int32_t i = start; i < end; ++i) {
      const int64_t index = plan_.row_states[i] * heads + head;
      states[i - start] = {lse_[index], o_ + index * dim};
      maximum = std::fmax(maximum, lse_[index]);
    }
    if (maximum == kMinusInfinity) maximum = 0;
    float denominator = layer_.sinks ? std::exp(layer_.sinks[head] - maximum) : 0.0f;
    for (int32_t i = 0; i < end - start; ++i)
      denominator += states[i].weight = std::exp(states[i].weight - maximum);
    const __m512 factor = _mm512_set1_ps(denominator == 0 ? 0.0f : 1.0f / denominator);
    Numbers* out = layer_.out + (row * heads + head) * dim;
    for (int64_t d = 0; d < dim; d += 16) {
      __m512 sum = _mm512_setzero_ps();
      for (int32_t i = 0; i < end - start; ++i)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(states[i].o + d), _mm512_set1_ps(states[i].weight), sum);
      store(out + d, _mm512_mul_ps(sum, factor));
    }
  }

  static void store(Numbers* out, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(x));
  }

  const Layer& layer_;
  const Plan& plan_;
  Logits logits_;
  Chunks chunks_;
  float* o_;
  float* lse_;
};

void attend(const Layer& layer, const Plan& plan, Workspace& workspace) {
  const Work work(layer, plan, workspace);
  while (workspace.scratch.size() < static_cast<size_t>(layer.num_threads))
    workspace.scratch.push_back(std::make_unique<Scratch>());
  const int64_t num_turns = static_cast<int64_t>(plan.turn_starts.size()) - 1;
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(layer.num_threads))
  {
    Scratch& scratch = *workspace.scratch[omp_get_thread_num()];
#pragma omp for schedule(static)
    for (int64_t row = 0; row < layer.num_rows; ++row) work.store_row(row);
    // Whoever is free takes the next; each output has one unit that writes it.
    for (int64_t turn = next++; turn < num_turns; turn = next++) work.run_turn(turn, scratch);
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
