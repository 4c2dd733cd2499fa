"""Benchmarks and experiments: what only the analysis tools import."""
