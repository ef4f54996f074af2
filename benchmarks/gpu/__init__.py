"""What only a GPU can show: run by `benchmarks/gpu_check.sh`."""
