"""Where a volume ends in tissue, and what its priors are then shown beyond the border."""

from __future__ import annotations

import numpy as np

from engine.backends.bundle import Bundle
from engine.backends.padding import NO_MARGINS, Margins, PaddedDenoiser
from engine.sampling.denoiser import Denoiser
from engine.volume import Plane

#: For each axis of a volume, whether its first and its last slice cut through tissue.
Faces = tuple[tuple[bool, bool], ...]
NO_FACES: Faces = ((False, False),) * 3
#: Mean of a slice in tissue, white being 1: necks show 0.15 and more, and of aliasing and streaks, which are as often
#: below zero as above, less than 0.02 is left.
_TISSUE_MEAN = 0.08


def cut_faces(image: np.ndarray) -> Faces:
    """The faces of a volume that cut through tissue.

    Parameters
    ----------
    image : float32 (d0, d1, d2)
        A crude image of it, such as a classical reconstruction; white is 1.
    """
    return tuple(
        (bool(image.take(0, axis).mean() > _TISSUE_MEAN), bool(image.take(-1, axis).mean() > _TISSUE_MEAN))
        for axis in range(3)
    )


def margins_of(bundle: Bundle, plane: Plane, faces: Faces, slice_shape: tuple[int, int]) -> Margins:
    """What a network is shown beyond the border of slices of a plane.

    Nothing at black borders, where a margin costs, and nothing along a side that is too short to be mirrored.
    """
    if not bundle.margin:
        return NO_MARGINS
    # The rest of a multiple of the divisor comes on top.
    rows, columns = (
        (bundle.margin * first, bundle.margin * last) if side > bundle.margin + bundle.divisor else (0, 0)
        for (first, last), side in zip((faces[axis] for axis in plane.axes[1:]), slice_shape, strict=True)
    )
    return rows, columns


def padded(
    denoiser: Denoiser, bundle: Bundle, plane: Plane, faces: Faces, slice_shape: tuple[int, int]
) -> PaddedDenoiser:
    """A network for slices of any size of a volume that ends where it ends."""
    return PaddedDenoiser(denoiser, bundle.divisor, margins_of(bundle, plane, faces, slice_shape))
