"""What one would use instead of each operator of the project."""
