"""The benchmarks of fused-acts: `python -m bench --help`."""
