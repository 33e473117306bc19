"""Benchmarks of undye against other projects. Run `python -m benchmarks.peers`; see README.md."""
