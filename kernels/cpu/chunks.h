// What a unit reads at a time, in which order, and what is asked for before it is read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kept.h"
#include "layout.h"
#include "plan.h"
#include "product.h"

namespace treeserve {

// Tokens that one tile of rows takes from K to V. Their logits stay in the first-level cache, or nearly
// so, and K and V, with those of the next chunk, in the second. Fewer would cost more of what is done
// for a row once a chunk.
constexpr int kBlocksPerChunk = 64;
constexpr int kChunk = kBlocksPerChunk * kLanes;
constexpr int64_t kChunkBytes = 128 * 1024;  // of K, and of V

inline int32_t blocks_per_chunk(int64_t head_dim) {
  const int64_t fitting = kChunkBytes / block_bytes(head_dim);
  return static_cast<int32_t>(std::clamp<int64_t>(fitting, 1, kBlocksPerChunk));
}

// What a unit reads at a time: K and V of some of its pieces, of one KV head.
struct Chunk {
  const Unit* unit;
  int64_t kv_head;
  int32_t first_piece;
  int32_t end_piece;

  int num_blocks() const { return end_piece - first_piece; }
};

// Where each block is read only once, it is asked for so many blocks before.
constexpr int kBlocksAhead = 8;

// What a thread knows of the chunk that it works on.
struct Reading {
  int num_blocks;
  int num_whole;  // blocks of which every row sees all; they come first
  Soon soon;
  // The pieces of the other blocks.
  Piece rest[kBlocksPerChunk];
  // Of K, of V, then what is read next, and some more that may be asked for.
  const char* blocks[4 * kBlocksPerChunk + kBlocksAhead];
  // V blocks of which some lanes are not read.
  Kept<Numbers> values;

  const char** k() { return blocks; }
  const char** v() { return blocks + num_blocks; }
  int num_rest() const { return num_blocks - num_whole; }
};

class Chunks {
 public:
  Chunks(const Plan& plan, const char* k_blocks, const char* v_blocks, int64_t num_kv_heads,
         int64_t head_dim)
      : plan_(plan), k_blocks_(k_blocks), v_blocks_(v_blocks), num_kv_heads_(num_kv_heads),
        head_dim_(head_dim), blocks_per_chunk_(blocks_per_chunk(head_dim)) {}

  // As even chunks as can be. Behind the last there is an empty one.
  Chunk at(const Unit& unit, int64_t kv_head, int32_t index) const {
    const int32_t pieces = unit.end_piece - unit.first_piece;
    const int32_t chunks = (pieces + blocks_per_chunk_ - 1) / blocks_per_chunk_;
    const auto piece = [&](int32_t i) {
      return unit.first_piece + static_cast<int32_t>(int64_t{pieces} * std::min(i, chunks) / chunks);
    };
    return {&unit, kv_head, piece(index), piece(index + 1)};
  }

  // tiles: of rows, that go through the chunk one after the other. next: what is read after it.
  void start(const Chunk& chunk, const Chunk& next, int64_t tiles, Reading& reading) const {
    reading.num_blocks = chunk.num_blocks();
    list_blocks(chunk, 2 * kBlocksPerChunk, reading.blocks);
    reading.soon = list_soon(next, tiles, reading);
    put_whole_first(chunk, reading);
  }

  // The lanes of the rest that a row at this position sees.
  void see(const Reading& reading, int64_t position, uint16_t* lanes) const {
    for (int i = 0; i < reading.num_rest(); ++i) {
      const Piece& piece = reading.rest[i];
      const int64_t until = std::clamp<int64_t>(position - piece.base + 1, 0, kLanes);
      uint32_t seen = piece.lanes & ((1u << until) - 1);
      if (plan_.window) {
        const int64_t oldest = position - plan_.window + 1 - piece.base;
        seen &= ~0u << std::clamp<int64_t>(oldest, 0, kLanes);
      }
      lanes[i] = static_cast<uint16_t>(seen);
    }
  }

 private:
  // The chunk's blocks of K, then those of V, at most so many; returns how many there are.
  int list_blocks(const Chunk& chunk, int most, const char** blocks) const {
    const int num_blocks = chunk.num_blocks();
    const int64_t bytes = block_bytes(head_dim_);
    const int count = std::min(most, 2 * num_blocks);
    for (int i = 0; i < count; ++i) {
      const int b = i < num_blocks ? i : i - num_blocks;
      const int64_t block = plan_.pieces[chunk.first_piece + b].block;
      blocks[i] = (i < num_blocks ? k_blocks_ : v_blocks_) +
                  (block * num_kv_heads_ + chunk.kv_head) * bytes;
    }
    return count;
  }

  // Adds what is read next to the list of a chunk's blocks. One tile reads everything once, so that it
  // asks for what it soon reads itself; of several each asks for a share of the next chunk.
  Soon list_soon(const Chunk& next, int64_t tiles, Reading& reading) const {
    const int num_blocks = reading.num_blocks, distance = std::min(kBlocksAhead, 2 * num_blocks);
    const char** first = reading.blocks + 2 * num_blocks;
    const int count = list_blocks(next, tiles == 1 ? distance : 2 * kBlocksPerChunk, first);
    const char** end = first + count;
    std::fill_n(end, kBlocksAhead, end[-1]);
    if (tiles == 1) return {reading.blocks + distance, end + kBlocksAhead, Asking::kAsMany};
    const bool one_is_enough = count <= tiles * num_blocks / kMaxVectors;
    return {first, end, one_is_enough ? Asking::kOne : Asking::kAsMany};
  }

  // Puts the blocks of which every row sees all before the rest, and copies in the place of V blocks
  // of which only some lanes are read. A few blocks are one tile, and stay together.
  void put_whole_first(const Chunk& chunk, Reading& reading) const {
    const Piece* pieces = plan_.pieces.data() + chunk.first_piece;
    const int num_blocks = reading.num_blocks;
    const auto is_whole = [&](const Piece& piece) {
      return piece.lanes == kAllLanes && !is_seen_in_part(piece, *chunk.unit);
    };
    reading.num_whole = num_blocks;
    if (std::all_of(pieces, pieces + num_blocks, is_whole)) return;
    const char **k = reading.k(), **v = reading.v();
    const char *rest_k[kBlocksPerChunk], *rest_v[kBlocksPerChunk];
    int num_whole = 0, num_rest = 0;
    for (int b = 0; b < num_blocks; ++b) {
      if (num_blocks > kMaxVectors && is_whole(pieces[b])) {
        k[num_whole] = k[b];
        v[num_whole++] = v[b];
        continue;
      }
      const uint32_t lanes = pieces[b].lanes;
      rest_k[num_rest] = k[b];
      rest_v[num_rest] = lanes == kAllLanes ? v[b] : only_lanes(v[b], lanes, num_rest, reading);
      reading.rest[num_rest++] = pieces[b];
    }
    std::copy_n(rest_k, num_rest, k + num_whole);
    std::copy_n(rest_v, num_rest, v + num_whole);
    reading.num_whole = num_whole;
  }

  // A copy of V with nothing in the other lanes: they may hold what is not a number, of which even
  // a weight of zero would make one.
  const char* only_lanes(const char* v, uint32_t lanes, int index, Reading& reading) const {
    const int64_t numbers = kLanes * head_dim_;
    auto* copy = reading.values.at_least(kBlocksPerChunk * numbers) + index * numbers;
    const auto* from = reinterpret_cast<const uint32_t*>(v);
    auto* to = reinterpret_cast<uint32_t*>(copy);
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      const uint32_t two = lanes >> (2 * pair);
      const uint32_t kept = (two & 1 ? 0xFFFFu : 0) | (two & 2 ? 0xFFFF0000u : 0);
      for (int64_t i = 0; i < head_dim_; ++i)
        to[pair * head_dim_ + i] = from[pair * head_dim_ + i] & kept;
    }
    return reinterpret_cast<const char*>(copy);
  }

  bool is_seen_in_part(const Piece& piece, const Unit& unit) const {
    return piece.last_position() > unit.lowest ||
           (plan_.window && piece.first_position() <= unit.highest - plan_.window);
  }

  const Plan& plan_;
  const char* k_blocks_;
  const char* v_blocks_;
  int64_t num_kv_heads_;
  int64_t head_dim_;
  int32_t blocks_per_chunk_;
};

}  // namespace treeserve
