"""From graphs to engines of TensorRT."""
