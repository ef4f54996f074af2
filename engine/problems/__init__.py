"""From data to an operator and its measurement: the only place that knows tasks by name."""
