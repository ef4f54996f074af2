"""One run: its options, checks, saved states and results."""
