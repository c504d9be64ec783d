// Interpolation from the oversampled grid to samples, and its transpose.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "footprints.h"
#include "grid.h"
#include "threads.h"

namespace fedrecon {

// Samples in the order of their first cells, and bands of grid slabs that hold about equally many; a slab is
// what one cell of the slowest axis spans.
template <class T>
struct Sorted {
  Scratch memory;
  T* points;
  int32_t* rank;                     // of each sample among the sorted
  std::vector<int64_t> band, start;  // first slab of each band, first sorted sample of each band

  // Eight are read at once.
  static int64_t padded(int64_t samples) { return samples + 7; }

  Sorted(const Workers& workers, const Geometry<T>& g, const T* input, int64_t samples)
      : memory(padded(samples) * (g.ndim * sizeof(T) + sizeof(int32_t))) {
    points = memory.as<T>();
    rank = reinterpret_cast<int32_t*>(points + padded(samples) * g.ndim);
    const std::unique_ptr<int32_t[]> key(new int32_t[samples]);
    const int slow = 3 - g.ndim, next = std::min(slow + 1, 2), ndim = g.ndim;
    const int slabs = ndim == 1 ? 1 : static_cast<int>(g.cells[slow]);
    // Tiles: what the samples of one meet should stay in the smallest cache. Bands consist of layers of tiles.
    const int most_layers = 8 * workers.count();
    const int tile = ndim == 3 ? 8 : 16, thick = ndim == 3 ? std::max(1, std::min(8, slabs / most_layers)) : 1;
    const int row_tiles = ndim == 3 ? (static_cast<int>(g.cells[2]) + 32 - 1) / 32 : 1,
              layers = (slabs + thick - 1) / thick;
    const int parts = (static_cast<int>(g.cells[next]) + tile - 1) / tile * row_tiles, keys = layers * parts;
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(workers.count(), samples / 4096));
    std::vector<std::vector<int32_t>> counts(chunks);
    auto range = [&](int64_t c) { return samples * c / chunks; };
    workers.each(chunks, [&](int64_t c) {
      std::vector<int32_t>& count = counts[c];
      count.assign(keys, 0);
      Located<T> at;
      for (int64_t m = range(c); m < range(c + 1); m += 8) {
        const int here = static_cast<int>(std::min<int64_t>(8, range(c + 1) - m));
        at.locate(g, input + m * ndim, here);
        for (int i = 0; i < here; ++i) {
          const int along = ndim == 3 ? at.first[2][i] / 32 : 0;
          const int k =
              (ndim == 1 ? 0 : at.first[slow][i] / thick * parts) + at.first[next][i] / tile * row_tiles + along;
          key[m + i] = k;
          ++count[k];
        }
      }
    });
    int32_t total = 0;
    std::vector<int64_t> layer_start(layers + 1, samples);
    for (int k = 0; k < keys; ++k) {
      if (k % parts == 0) layer_start[k / parts] = total;
      for (auto& count : counts) {
        const int32_t here = count[k];
        count[k] = total;
        total += here;
      }
    }
    workers.each(chunks, [&](int64_t c) {
      std::vector<int32_t>& count = counts[c];
      for (int64_t m = range(c); m < range(c + 1); ++m) {
        const int32_t to = count[key[m]]++;
        rank[m] = to;
        for (int a = 0; a < ndim; ++a) points[a * padded(samples) + to] = input[m * ndim + a];
      }
    });
    // Bands are at least a footprint high and even in number, so that every second one can be filled at once.
    const int64_t reach = std::max(g.taps[slow] - 1, 1), height = (reach + thick - 1) / thick * thick;
    const int64_t most = workers.count() == 1 ? 1 : std::min<int64_t>(8 * workers.count(), slabs / height);
    const int64_t wanted = std::max<int64_t>(1, most / 2 * 2);
    band = {0};
    for (int64_t s = height; s + reach <= slabs; s += thick) {
      const int64_t have = band.size();
      if (have >= wanted) break;
      const bool full = layer_start[s / thick] * wanted >= samples * have;
      const bool must = slabs - s <= (wanted - have) * height;
      if (s - band.back() >= height && (full || must)) band.push_back(s);
    }
    if (band.size() % 2 && band.size() > 1) band.pop_back();
    band.push_back(slabs);
    for (int64_t b : band) start.push_back(layer_start[(b + thick - 1) / thick]);
  }
};

// Samples of up to eight planes (null where absent) from the grid: in the order of `sorted`, or else of the points.
template <class T>
void interpolate(const Workers& workers, const Grid<T>& grid, const T* points, int64_t samples, const Sorted<T>* sorted,
                 T* const* out) {
  const int64_t chunk = 2048;
  const int ndim = grid.geometry.ndim;
  workers.each((samples + chunk - 1) / chunk, [&](int64_t task) {
    const int64_t end = std::min(samples, (task + 1) * chunk);
    Located<T> at, next;
    auto locate = [&](int64_t m) {
      if (sorted)
        next.locate_along(grid.geometry, sorted->points + m, Sorted<T>::padded(samples));
      else
        next.locate(grid.geometry, points + m * ndim, std::min<int64_t>(8, end - m));
    };
    locate(task * chunk);
    for (int64_t m = task * chunk; m < end; m += 8) {
      const int count = static_cast<int>(std::min<int64_t>(8, end - m));
      at = next;
      if (m + 8 < end) locate(m + 8);
      if (grid.planes) {
        ComplexLanes<T> values[8] = {};
        gather_few_planes(grid, at, count, values);
        transpose<T>(values);
        for (int l = 0; l < 8; ++l)
          if (out[l]) store_complex<T>(out[l] + 2 * m, values[l], count);
      } else {
        if (!sorted)
          for (int i = 0; i < count; ++i) prefetch_cells(grid, next, i);
        gather_few(grid, at, count, out[0] + 2 * m);
      }
    }
  });
}

// The order of these samples: that of an earlier call if it was the same samples, bit by bit.
template <class T>
std::shared_ptr<const Sorted<T>> sorted_samples(const Workers& workers, const Geometry<T>& g, const T* points,
                                                int64_t samples) {
  struct Kept {
    std::vector<int64_t> key;
    std::shared_ptr<Scratch> points;
    std::shared_ptr<const Sorted<T>> sorted;
    size_t bytes;
  };
  static std::mutex mutex;
  static auto* kept = new std::vector<Kept>;
  constexpr size_t most = size_t{64} << 20;
  const std::vector<int64_t> key = {g.ndim, g.width, g.cells[0], g.cells[1], g.cells[2], samples, workers.count()};
  const size_t size = samples * g.ndim * sizeof(T);
  std::vector<Kept> candidates;
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (const Kept& k : *kept)
      if (k.key == key) candidates.push_back(k);
  }
  for (const Kept& k : candidates) {
    std::atomic<bool> same{true};
    const size_t chunk = size_t{1} << 18;
    workers.each((size + chunk - 1) / chunk, [&](int64_t task) {
      const size_t from = task * chunk, count = std::min(chunk, size - from);
      const auto* bytes = reinterpret_cast<const char*>(points) + from;
      if (same && std::memcmp(bytes, k.points->template as<char>() + from, count)) same = false;
    });
    if (same) return k.sorted;
  }
  auto sorted = std::make_shared<const Sorted<T>>(workers, g, points, samples);
  const size_t bytes = 2 * size + sizeof(int32_t) * samples;
  if (2 * bytes > most) return sorted;
  auto copy = std::make_shared<Scratch>(size);
  std::memcpy(copy->template as<char>(), points, size);
  std::lock_guard<std::mutex> lock(mutex);
  size_t held = bytes;
  for (const Kept& k : *kept) held += k.bytes;
  while (held > most && !kept->empty()) {
    held -= kept->front().bytes;
    kept->erase(kept->begin());
  }
  kept->push_back({key, copy, sorted, bytes});
  return sorted;
}

// Adds samples of up to eight planes to the grid, clearing it first.
template <class T>
void spread(const Workers& workers, const Grid<T>& grid, const Sorted<T>& sorted, const T* values) {
  const Geometry<T>& g = grid.geometry;
  const int slow = g.ndim == 1 ? 1 : 3 - g.ndim;
  const int64_t bands = sorted.band.size() - 1, reach = g.taps[slow] - 1;
  const int64_t slab = grid.rows() / g.cells[slow] * grid.row;
  const int64_t stride = grid.planes ? 16 : 2;
  auto clear = [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s)
      std::memset(static_cast<void*>(grid.data + s % g.cells[slow] * slab), 0, slab * sizeof(ComplexLanes<T>));
  };
  for (int64_t odd = 0; odd < 2; ++odd) {
    workers.each((bands + 1 - odd) / 2, [&](int64_t task) {
      const int64_t b = 2 * task + odd;
      // An even band also clears what it reaches of the next; that one clears the rest of itself.
      if (bands == 1)
        clear(0, g.cells[slow]);
      else if (odd)
        clear(sorted.band[b] + reach, sorted.band[b + 1]);
      else
        clear(sorted.band[b], sorted.band[b + 1] + reach);
      Located<T> at;
      const int64_t end = sorted.start[b + 1];
      for (int64_t j = sorted.start[b]; j < end; j += 8) {
        const int count = static_cast<int>(std::min<int64_t>(8, end - j));
        at.locate_along(g, sorted.points + j, Sorted<T>::padded(sorted.start.back()));
        if (grid.planes) {
          spread_few_planes(grid, at, count, values + j * stride);
        } else {
          spread_few(grid, at, count, values + j * stride);
        }
      }
    });
  }
}

}  // namespace fedrecon
