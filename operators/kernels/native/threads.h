// Parallel loops on a thread pool whose tasks the caller can always finish alone, and reusable memory.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace fedrecon {

class Workers {
 public:
  using Schedule = std::function<void(std::function<void()>)>;
  Workers(int count, Schedule schedule) : count_(count), schedule_(std::move(schedule)) {}

  int count() const { return count_; }

  // body(task) for every task below `tasks`, in any order and on any thread; returns when all are done.
  template <class Body>
  void each(int64_t tasks, const Body& body) const {
    if (tasks <= 1 || count_ <= 1) {
      for (int64_t task = 0; task < tasks; ++task) body(task);
      return;
    }
    struct Shared {
      std::atomic<int64_t> next{0}, done{0};
      std::atomic<const Body*> body;
    };
    // Helpers that wake late find no task left and touch nothing but this.
    auto shared = std::make_shared<Shared>();
    shared->body = &body;
    auto work = [shared, tasks] {
      for (int64_t task; (task = shared->next.fetch_add(1)) < tasks;) {
        (*shared->body.load())(task);
        shared->done.fetch_add(1);
      }
    };
    const int64_t helpers = std::min<int64_t>(count_, tasks) - 1;
    for (int64_t i = 0; i < helpers; ++i) schedule_(work);
    work();
    for (int spins = 0; shared->done.load() < tasks; ++spins)
      if (spins > 2000) std::this_thread::yield();
  }

 private:
  int count_;
  Schedule schedule_;
};

// Memory that is kept between calls: fresh pages would cost more than a transform.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    bytes = std::max<size_t>(bytes, 1);
    auto& cache = shared();
    std::lock_guard<std::mutex> lock(cache.mutex);
    for (size_t i = 0; i < cache.blocks.size(); ++i)
      if (cache.blocks[i].bytes >= bytes && cache.blocks[i].bytes <= 2 * bytes + large) {
        block_ = cache.blocks[i];
        cache.held -= block_.bytes;
        cache.blocks.erase(cache.blocks.begin() + i);
        return;
      }
    const size_t page = bytes < large ? 4096 : large;
    block_.bytes = (bytes + page - 1) / page * page;
    block_.data = std::aligned_alloc(page, block_.bytes);
    if (!block_.data) throw std::bad_alloc();
#ifdef __linux__
    // Gridding walks over the whole block: few large pages instead of thousands of small ones.
    if (page == large) madvise(block_.data, block_.bytes, MADV_HUGEPAGE);
#endif
  }
  ~Scratch() {
    auto& cache = shared();
    std::lock_guard<std::mutex> lock(cache.mutex);
    cache.blocks.push_back(block_);
    cache.held += block_.bytes;
    while (cache.held > kept && cache.blocks.size() > 1) {
      cache.held -= cache.blocks.front().bytes;
      std::free(cache.blocks.front().data);
      cache.blocks.erase(cache.blocks.begin());
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class E>
  E* as() const {
    return static_cast<E*>(block_.data);
  }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  struct Cache {
    std::mutex mutex;
    std::vector<Block> blocks;
    size_t held = 0;
  };
  static constexpr size_t kept = size_t{64} << 20, large = size_t{2} << 20;
  static Cache& shared() {
    static Cache* cache = new Cache;
    return *cache;
  }
  Block block_;
};

}  // namespace fedrecon
