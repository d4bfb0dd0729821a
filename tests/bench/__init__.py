"""Benchmarks: each module has `run() -> list[Row]`; `bin/bench NAME` runs one and shows its rows."""
