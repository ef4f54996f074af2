"""Graphs in half precision, and how far they are off."""
