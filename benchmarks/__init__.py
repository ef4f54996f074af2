"""A regular package, so that no other one called `benchmarks` is found first."""
