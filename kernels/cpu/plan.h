// What is worked out once a step: which rows a unit of work holds, and which blocks it reads.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "layout.h"

namespace treeserve {

// As in treeserve.scheduler.step.Plan. The caller keeps what they point to while the plan is made.
struct StepArrays {
  const int32_t* positions;             // [num_rows]
  const int32_t* item_rows;             // [item_row_starts[num_items]]
  const int32_t* item_row_starts;       // [num_items + 1]
  const int32_t* item_slots;
  const int32_t* item_slot_starts;      // [num_items]
  const int32_t* item_slot_ends;        // [num_items]
  const int32_t* item_start_positions;  // [num_items]
  int64_t num_items;
  int64_t num_rows;
  int64_t group;         // query heads per KV head
  int64_t num_kv_heads;
  int64_t window;        // 0: none
  int64_t num_threads;
};

// Neighbouring tokens in one block: the token at lane l is at position base + l.
struct Piece {
  int32_t block;
  int32_t base;
  uint32_t lanes;

  int32_t first_position() const { return base + __builtin_ctz(lanes); }
  int32_t last_position() const { return base + 31 - __builtin_clz(lanes); }
};

// Some of an item's rows over some of its pieces, for every KV head alike.
struct Unit {
  int32_t first_row;  // in Plan::rows
  int32_t num_rows;
  int32_t first_piece;
  int32_t end_piece;
  int32_t first_state;
  int32_t lowest;  // of the rows' positions
  int32_t highest;
  int64_t cost;
};

struct Plan {
  std::vector<int32_t> rows;       // of all units
  std::vector<int32_t> positions;  // of these rows
  std::vector<Piece> pieces;
  std::vector<Unit> units;         // the dearest first
  // Jobs that a thread takes at a time, [num_turns + 1]: job j is unit j / num_kv_heads with one head.
  std::vector<int64_t> turn_starts;
  std::vector<int32_t> row_states;  // each row's, in the order in which they are merged
  std::vector<int32_t> row_state_starts;
  int64_t window = 0;
  int64_t num_states = 0;
  int64_t max_pairs = 0;  // of a unit
};

// (row, query head) pairs of a unit, 14 tiles of rows: for all of them K and V of a chunk come into the
// core's own cache once.
constexpr int64_t kPairsPerUnit = 84;
// Work is cut until each thread has so many units, but no shorter than this many tokens.
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kLeastTokens = 512;
// Small jobs, a unit with one KV head each, are taken together until they are so small a share of what
// a thread does: whoever takes the next waits until what it wrote is out.
constexpr int64_t kTurnsPerThread = 64;
// What a unit costs beside its (pair, token) products, in those.
constexpr int64_t kUnitCost = 1000;

class PlanMaker {
 public:
  explicit PlanMaker(const StepArrays& step) : step_(step) { plan_.window = step.window; }

  Plan make() {
    for (int64_t item = 0; item < step_.num_items; ++item) add_item(item);
    cut_long_units();
    list_states();
    std::stable_sort(plan_.units.begin(), plan_.units.end(),
                     [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    list_turns();
    return std::move(plan_);
  }

 private:
  void add_item(int64_t item) {
    const int32_t start = step_.item_row_starts[item], end = step_.item_row_starts[item + 1];
    if (start == end) return;
    int32_t lowest = INT32_MAX, highest = INT32_MIN;
    for (int32_t i = start; i < end; ++i) {
      const int32_t position = step_.positions[step_.item_rows[i]];
      lowest = std::min(lowest, position);
      highest = std::max(highest, position);
    }
    const auto first_piece = static_cast<int32_t>(plan_.pieces.size());
    add_pieces(item, lowest, highest);
    if (plan_.pieces.size() == static_cast<size_t>(first_piece)) return;
    const auto per_unit =
        static_cast<int32_t>(std::max<int64_t>(1, kPairsPerUnit / step_.group));
    for (int32_t i = start; i < end; i += per_unit)
      add_unit(i, std::min(end, i + per_unit), first_piece);
  }

  // The item's tokens that any row sees.
  void add_pieces(int64_t item, int32_t lowest, int32_t highest) {
    const int64_t slot_start = step_.item_slot_starts[item];
    const int64_t num_tokens = step_.item_slot_ends[item] - slot_start;
    const int64_t at = step_.item_start_positions[item];
    int64_t t = step_.window ? std::max<int64_t>(0, lowest - step_.window + 1 - at) : 0;
    const int64_t end = std::min<int64_t>(num_tokens, int64_t{highest} + 1 - at);
    const int32_t* slots = step_.item_slots + slot_start;
    while (t < end) {
      const int32_t lane = slots[t] % kLanes;
      const int64_t length = run_length(slots + t, std::min<int64_t>(end - t, kLanes - lane));
      const uint32_t lanes = ((1u << length) - 1) << lane;
      plan_.pieces.push_back(
          {slots[t] / kLanes, static_cast<int32_t>(at + t - lane), lanes});
      t += length;
    }
  }

  // How many slots from the first on are neighbours, at most `longest` <= 16.
  static int64_t run_length(const int32_t* slots, int64_t longest) {
    const auto valid = static_cast<__mmask16>((1u << longest) - 1);
    const __m512i found = _mm512_maskz_loadu_epi32(valid, slots);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i run = _mm512_add_epi32(_mm512_set1_epi32(slots[0]), lanes);
    const uint32_t breaks = _mm512_mask_cmpneq_epi32_mask(valid, found, run) | 1u << longest;
    return __builtin_ctz(breaks);
  }

  void add_unit(int32_t start, int32_t end, int32_t first_piece) {
    Unit unit{};
    unit.first_row = static_cast<int32_t>(plan_.rows.size());
    unit.num_rows = end - start;
    unit.lowest = INT32_MAX;
    unit.highest = INT32_MIN;
    for (int32_t i = start; i < end; ++i) {
      const int32_t row = step_.item_rows[i], position = step_.positions[row];
      plan_.rows.push_back(row);
      plan_.positions.push_back(position);
      unit.lowest = std::min(unit.lowest, position);
      unit.highest = std::max(unit.highest, position);
    }
    const auto first = plan_.pieces.begin() + first_piece;
    const int64_t oldest = step_.window ? unit.lowest - step_.window + 1 : INT32_MIN;
    const auto begin = std::partition_point(
        first, plan_.pieces.end(), [&](const Piece& p) { return p.last_position() < oldest; });
    const auto finish = std::partition_point(begin, plan_.pieces.end(), [&](const Piece& p) {
      return p.first_position() <= unit.highest;
    });
    if (begin == finish) return;
    unit.first_piece = static_cast<int32_t>(begin - plan_.pieces.begin());
    unit.end_piece = static_cast<int32_t>(finish - plan_.pieces.begin());
    price(unit);
    plan_.max_pairs = std::max(plan_.max_pairs, unit.num_rows * step_.group);
    plan_.units.push_back(unit);
  }

  void price(Unit& unit) const {
    const int64_t tokens = int64_t{unit.end_piece - unit.first_piece} * kLanes;
    unit.cost = kUnitCost + unit.num_rows * step_.group * tokens;
  }

  // A few long units would keep one thread busy and the others waiting.
  void cut_long_units() {
    if (step_.num_threads < 2) return;
    int64_t total = 0;
    for (const Unit& unit : plan_.units) total += unit.cost;
    const int64_t limit =
        std::max<int64_t>(1, total * step_.num_kv_heads / (step_.num_threads * kUnitsPerThread));
    std::vector<Unit> cut;
    for (const Unit& unit : plan_.units) {
      const int64_t pieces = unit.end_piece - unit.first_piece;
      const int64_t wanted = (unit.cost + limit - 1) / limit;
      const int64_t parts =
          std::max<int64_t>(1, std::min(wanted, pieces * kLanes / kLeastTokens));
      for (int64_t part = 0; part < parts; ++part) {
        Unit one = unit;
        one.first_piece = static_cast<int32_t>(unit.first_piece + pieces * part / parts);
        one.end_piece = static_cast<int32_t>(unit.first_piece + pieces * (part + 1) / parts);
        price(one);
        cut.push_back(one);
      }
    }
    plan_.units = std::move(cut);
  }

  // Units are sorted: the dearest make a turn of their own each.
  void list_turns() {
    int64_t total = 0, taken = 0;
    for (const Unit& unit : plan_.units) total += unit.cost * step_.num_kv_heads;
    const int64_t enough = total / (std::max<int64_t>(1, step_.num_threads) * kTurnsPerThread);
    const int64_t jobs = static_cast<int64_t>(plan_.units.size()) * step_.num_kv_heads;
    plan_.turn_starts.push_back(0);
    for (int64_t job = 0; job < jobs; ++job) {
      taken += plan_.units[job / step_.num_kv_heads].cost;
      if (taken < enough && job + 1 < jobs) continue;
      plan_.turn_starts.push_back(job + 1);
      taken = 0;
    }
  }

  // Units are in the items' order still, and so each row's states will be.
  void list_states() {
    auto& starts = plan_.row_state_starts;
    starts.assign(step_.num_rows + 1, 0);
    for (Unit& unit : plan_.units) {
      unit.first_state = static_cast<int32_t>(plan_.num_states);
      plan_.num_states += unit.num_rows;
      for (int32_t i = 0; i < unit.num_rows; ++i) ++starts[plan_.rows[unit.first_row + i] + 1];
    }
    for (int64_t row = 0; row < step_.num_rows; ++row) starts[row + 1] += starts[row];
    plan_.row_states.resize(plan_.num_states);
    std::vector<int32_t> next(starts.begin(), starts.end() - 1);
    for (const Unit& unit : plan_.units)
      for (int32_t i = 0; i < unit.num_rows; ++i)
        plan_.row_states[next[plan_.rows[unit.first_row + i]]++] = unit.first_state + i;
  }

  StepArrays step_;
  Plan plan_;
};

}  // namespace treeserve
