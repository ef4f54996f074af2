"""Where the image of a CT scan lies: in the world, and beside the axes of a canonical volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.io.measurements.geometry_fields import LEAST_MM, integer, length, refuse_beside, shown, vector, wrong
from engine.io.orientation import Orientation, directions_of
from engine.volume import Plane

PLACE_KEYS = ("slice_spacing_mm", "origin_mm", "orientation")
#: Far more than a detector has.
MAX_SIDE = 16384
#: Relative error of pixel sizes that were written with few digits, and of right angles.
_SQUARE = 1e-3


@dataclass(frozen=True, eq=False)
class Place:
    """The image of a scan, as slices of a canonical volume: their axes may be other ones, and run the other way.

    Parameters
    ----------
    slice_shape : (int, int)
        Rows and columns of the volume's slices.
    plane : Plane
        One of the named ones: how slices are cut from the volume.
    centre : (float, float)
        Row and column there of the centre of rotation.
    pixel_mm : float
        Side of a pixel.
    image_affine : float64 (4, 4)
        Slice, row and column in the scan's image to mm (right, anterior, superior).
    image_shape : (int, int)
        Rows and columns there.
    slices_reversed : bool
        Whether slices of the scan count against those of `plane`.
    mirrors_deg : tuple of float
        What was at angle θ is now at the first less θ, and so on; every one of them swaps the ends of the detector.
    """

    slice_shape: tuple[int, int]
    plane: Plane
    centre: tuple[float, float]
    pixel_mm: float
    image_affine: np.ndarray
    image_shape: tuple[int, int]
    slices_reversed: bool
    mirrors_deg: tuple[float, ...]

    @property
    def bins_reversed(self) -> bool:
        """Whether bins count the other way round."""
        return len(self.mirrors_deg) % 2 == 1

    def turned(self, angles_deg: Sequence[float]) -> list[float]:
        """The angles of views in the volume's slices, in degrees."""
        angles = list(angles_deg)
        for mirror in self.mirrors_deg:
            angles = [mirror - angle for angle in angles]
        return angles

    def affine_of(self, n_slices: int) -> np.ndarray:
        """Voxel indices of the volume of that many slices to mm, float64 (4, 4)."""
        return Orientation.of((n_slices, *self.image_shape), self.image_affine).volume_affine


def place_of(fields: Mapping[str, Any]) -> Place:
    """Return where the fields of a geometry place the image.

    Raises
    ------
    InputError
        A key that is missing or contradicts another one, a value that is none, pixels that are not square.
    """
    fields = dict(fields)
    pixel_mm = length(fields, "pixel_mm")
    if "size" in fields:
        refuse_beside(fields, ("rows", "columns"), "size")
    sides = ("size", "size") if "size" in fields else ("rows", "columns")
    rows, columns = shape = (integer(fields, sides[0], MAX_SIDE), integer(fields, sides[1], MAX_SIDE))
    middle = [(rows - 1) / 2, (columns - 1) / 2]
    row, column = vector(fields.get("rotation_centre_px", middle), "rotation_centre_px", 2)
    affine = _affine(fields, pixel_mm, (row, column))
    orientation = Orientation.of((1, *shape), affine)
    # Axes of the volume along which slices, rows and columns of the scan's image run.
    of_slices, of_rows, of_columns = axes = [orientation.order.index(axis) for axis in range(3)]
    plane = Plane((of_slices, min(of_rows, of_columns), max(of_rows, of_columns)))
    slices_reversed, rows_flipped, columns_flipped = (orientation.flipped[axis] for axis in axes)
    # A mirrored image has mirrored rays.
    mirrors: list[float] = []
    if rows_flipped:
        mirrors, row = [*mirrors, 180.0], rows - 1 - row
    if columns_flipped:
        mirrors, column = [*mirrors, 0.0], columns - 1 - column
    if of_rows > of_columns:
        mirrors, (row, column), shape = [*mirrors, 90.0], (column, row), (columns, rows)
    return Place(shape, plane, (row, column), pixel_mm, affine, (rows, columns), slices_reversed, tuple(mirrors))


def check_square(image_affine: np.ndarray, pixel_mm: float | None = None) -> None:
    """Refuse an affine whose rows and columns are not equally far apart, or not at right angles.

    Parameters
    ----------
    image_affine : float64 (4, 4)
        From slice, row and column.
    pixel_mm : float or None
        How far apart they have to be.

    Raises
    ------
    InputError
    """
    row, column = image_affine[:3, 1], image_affine[:3, 2]
    sides = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    side = pixel_mm or sides[0]
    if max(abs(s - side) for s in sides) > _SQUARE * side or abs(row @ column) > _SQUARE * side**2:
        expected = f"square pixels of {side:g} mm in the affine"
        got = f"{np.round([row, column], 4).tolist()} from row to row and from column to column"
        raise wrong(expected, got, "mend the affine or pixel_mm, or resample the volume")


def check_cubic(place: Place) -> None:
    """Refuse slices that are farther apart than pixels are wide, or not across them.

    Raises
    ------
    InputError
    """
    step, *sides = place.image_affine[:3, :3].T
    distance = float(np.linalg.norm(step))
    slant = max(abs(float(step @ side)) for side in sides)
    if abs(distance - place.pixel_mm) > _SQUARE * place.pixel_mm or slant > _SQUARE * place.pixel_mm**2:
        expected = f"cubic voxels of {place.pixel_mm:g} mm for a cone beam"
        got = f"slices {distance:g} mm apart{', aslant' if slant > _SQUARE * place.pixel_mm**2 else ''}"
        raise wrong(expected, got, "remove slice_spacing_mm, which is then pixel_mm, or mend the affine")


def _affine(fields: dict[str, Any], pixel_mm: float, centre: tuple[float, float]) -> np.ndarray:
    """Slice, row and column of the scan's image to mm, float64 (4, 4)."""
    if "affine" in fields:
        refuse_beside(fields, PLACE_KEYS, "affine")
        value = fields["affine"]
        lines = value if isinstance(value, list) and len(value) == 4 else [None]
        affine = np.array([vector(line, "affine", 4) for line in lines])
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        dependent = min(sides) < LEAST_MM or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * sides.prod()
        if dependent or affine[3].tolist() != [0, 0, 0, 1]:
            raise wrong("independent axes and a last line of 0, 0, 0, 1 in affine", "another matrix", "mend it")
        check_square(affine, pixel_mm)
        return affine
    letters = fields.get("orientation", "SRA")
    directions = directions_of(letters) if isinstance(letters, str) else None
    if directions is None:
        expected = "three letters as orientation, one each of R or L, A or P, S or I"
        raise wrong(expected, shown(letters), "SPL and IPL are usual")
    affine = np.eye(4)
    affine[:3, :3] = directions * (length(fields, "slice_spacing_mm"), pixel_mm, pixel_mm)
    if "origin_mm" in fields:
        affine[:3, 3] = vector(fields["origin_mm"], "origin_mm", 3)
    else:
        affine[:3, 3] = -affine[:3, 1] * centre[0] - affine[:3, 2] * centre[1]
    return affine
