"""Tables, plots and pictures of what the benchmarks found."""
