"""What `emrrg bench` measures: one module a benchmark, each with `run(quick: bool) -> dict`."""
