"""From traced graphs to the files of a bundle."""
