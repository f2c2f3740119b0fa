"""What each speed lever is worth on this machine, against the plain way: `python -m benchmarks`, see docs/benchmarks.md."""
