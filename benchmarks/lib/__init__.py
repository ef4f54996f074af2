"""What the benchmarks share: the machine, rows timed by turns, what is measured, and the writing of results."""
