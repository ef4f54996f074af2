"""A regular package, so that no other one called `tests` is found first."""
