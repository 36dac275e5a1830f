"""Benchmarks of the service beside the limits of the machine. Run with ``make bench``; see bench/README.md."""
