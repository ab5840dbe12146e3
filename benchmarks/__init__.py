"""Benchmarks: commands that run the engine and its peers on data of one's own and write tables."""
