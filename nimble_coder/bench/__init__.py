"""Measurements that a person runs on their own machine; every figure in docs/benchmarks.md comes from here."""
