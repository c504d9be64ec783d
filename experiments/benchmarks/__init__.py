"""Parts of the benchmarks: timing and memory, workloads, and the adapters of other libraries."""
