"""The page that a run leaves, and the figures on it."""
