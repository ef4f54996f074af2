"""Fits a 2D diffusion prior to volumes."""
