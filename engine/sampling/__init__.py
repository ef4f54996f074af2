"""The algorithm: from an inverse problem and its priors to a volume; no file, no task name, no option."""
