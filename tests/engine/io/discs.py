"""Discs, whose line integrals have a closed form in any geometry."""

from __future__ import annotations

import math

import numpy as np

from kernels import FanGeometry, ParallelGeometry
from kernels.geometry import Geometry

#: Radius, and row and column of the centre from the centre of rotation, as parts of half an image; density.
HEAD = ((0.8, 0.0, 0.0, 0.02), (0.15, 0.3, -0.35, 0.03), (0.1, -0.4, 0.1, -0.015))


def line_integrals(geometry: Geometry, discs=HEAD, n_slices: int = 2) -> np.ndarray:
    """Of discs that grow a little from slice to slice, float32 (n_slices, n_views, n_bins); in pixels times density."""
    half = geometry.shape[0] / 2
    out = np.zeros((n_slices, geometry.n_views, geometry.n_bins))
    for view, angle in enumerate(geometry.angles_rad):
        feet, directions = geometry.rays_of(angle)
        for radius, row, column, density in discs:
            # From the centre of the disc to the ray, perpendicular to it.
            away = np.add(geometry.centre, [row * half, column * half]) - feet
            distance = away[:, 0] * directions[:, 1] - away[:, 1] * directions[:, 0]
            for z in range(n_slices):
                r = radius * half * (1 + 0.02 * z)
                out[z, view] += density * 2 * np.sqrt(np.maximum(r**2 - distance**2, 0))
    return out.astype(np.float32)


def parallel(n=64, n_views=45, span_deg=180.0, n_bins=None, spacing=1.0, offset=0.0, first_deg=0.0) -> ParallelGeometry:
    angles = np.deg2rad(first_deg + np.linspace(0, span_deg, n_views, endpoint=False))
    return ParallelGeometry(n, angles, n if n_bins is None else n_bins, spacing, offset)


def fan(
    n=64, n_views=120, span_deg=360.0, n_bins=None, source=3.0, detector=1.5, offset=0.0, curved=False, first_deg=0.0
) -> FanGeometry:
    """Distances in half images; as many bins as a beam of the image's width and a little needs."""
    half, angles = n / 2, np.deg2rad(first_deg + np.linspace(0, span_deg, n_views, endpoint=False))
    distances = source * half, detector * half
    magnification = sum(distances) / distances[0]
    n_bins = math.ceil(1.1 * n * magnification) if n_bins is None else n_bins
    return FanGeometry((n, n), angles, *distances, n_bins, 1.0, offset, curved)
