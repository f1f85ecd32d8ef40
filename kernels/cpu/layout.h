// How K and V of bfloat16 lie in memory: packed for products of pairs, sixteen slots to a block.
#pragma once

#include <cstdint>

namespace treeserve {

// Slot s is lane s % 16 of block s / 16. Of each KV head a block holds
//   K: [head_dim / 2][16 lanes][2]   pairs along the head's dimensions
//   V: [8][head_dim][2]              pairs along the lanes
// so a vector of 64 bytes is what one product of pairs takes, for K sixteen tokens' logits and for V
// sixteen dimensions. The layout is also written down in treeserve/kv_layout.py.
constexpr int kLanes = 16;
constexpr int kAllLanes = 0xFFFF;

// Bytes of one head's K, or V, in one block.
inline int64_t block_bytes(int64_t head_dim) { return kLanes * head_dim * 2; }

inline void store_k(const uint16_t* k, char* block, int lane, int64_t head_dim) {
  auto* pairs = reinterpret_cast<uint32_t*>(block) + lane;
  for (int64_t pair = 0; pair < head_dim / 2; ++pair)
    pairs[pair * kLanes] = uint32_t{k[2 * pair]} | uint32_t{k[2 * pair + 1]} << 16;
}

// One number at a time: another thread may be storing the other lane of the pairs.
inline void store_v(const uint16_t* v, char* block, int lane, int64_t head_dim) {
  auto* numbers = reinterpret_cast<uint16_t*>(block) + lane / 2 * head_dim * 2 + lane % 2;
  for (int64_t i = 0; i < head_dim; ++i) numbers[2 * i] = v[i];
}

}  // namespace treeserve
