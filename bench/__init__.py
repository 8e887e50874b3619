"""Side-by-side benchmarks, run by command (`make bench`), never by CI: what docs/benchmarks.md is written from."""
