// Memory that is kept from call to call: fresh pages cost more than the work.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace treeserve {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
class Kept {
 public:
  T* at_least(int64_t count) {
    if (count > count_) {
      count_ = count + count / 2;
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, (count_ * sizeof(T) + 63) / 64 * 64)));
      if (!memory_) std::abort();
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<T, Free> memory_;
  int64_t count_ = 0;
};

}  // namespace treeserve
