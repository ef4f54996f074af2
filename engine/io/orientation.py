"""How the axes of a file lie in those of a volume, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: World axis (right, anterior, superior) and sign of each letter.
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def directions_of(letters: str) -> np.ndarray | None:
    """Return the unit vectors towards three letters of R or L, A or P, S or I as columns.

    Parameters
    ----------
    letters : str
        Where three axes count to.

    Returns
    -------
    float64 (3, 3) or None
        In (right, anterior, superior); None where there are no three such letters, or two of one axis.
    """
    places = [_LETTERS[letter] for letter in letters if letter in _LETTERS]
    if len(letters) != 3 or sorted(axis for axis, _ in places) != [0, 1, 2]:
        return None
    directions = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(places):
        directions[axis, column] = sign
    return directions


@dataclass(frozen=True)
class Orientation:
    """The axes of a file, as permuted and flipped axes of a volume (x to the right, y to the front, z to the top).

    Parameters
    ----------
    order : (int, int, int)
        Axis i of the volume is axis order[i] of the file.
    flipped : (bool, bool, bool)
        Whether axis i of the volume runs against that axis of the file.
    affine : float64 (4, 4)
        Voxel indices of the file to mm (right, anterior, superior).
    shape : (int, int, int)
        Of the file's voxels.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    affine: np.ndarray
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: np.ndarray) -> Orientation:
        """The permutation and flips that bring a file's axes closest to those of a volume.

        Parameters
        ----------
        shape : (int, int, int)
        affine : float64 (4, 4)
            Finite, of independent axes.
        """
        from nibabel.orientations import io_orientation

        # Row j: the world axis that axis j of the file runs closest to, and in which direction.
        closest = io_orientation(affine)  # type: ignore[no-untyped-call]
        order = np.argsort(closest[:, 0])
        flipped = closest[order, 1] < 0
        i, j, k = (int(axis) for axis in order)
        a, b, c = (bool(flip) for flip in flipped)
        n, m, o = (int(side) for side in shape)
        return cls((i, j, k), (a, b, c), np.asarray(affine, np.float64), (n, m, o))

    @property
    def volume_affine(self) -> np.ndarray:
        """float64 (4, 4): voxel indices of the volume to mm."""
        return self.affine @ self._to_file(self.volume_shape)

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        i, j, k = self.order
        return self.shape[i], self.shape[j], self.shape[k]

    def volume_of(self, data: np.ndarray) -> np.ndarray:
        """Return the voxels of a file, of any size, with the axes of a volume: a view."""
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        view: np.ndarray = data.transpose(self.order)[flips]
        return view

    def file_of(self, volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a volume, of any size, with the axes of the file.

        Parameters
        ----------
        volume : array (d0, d1, d2)
        affine : float64 (4, 4)
            Voxel indices of `volume` to mm.

        Returns
        -------
        data : array
            A view.
        affine : float64 (4, 4)
            Its voxel indices to mm; to the last bit the file's own where the volume lies where the file's did.
        """
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        data: np.ndarray = volume[flips].transpose(np.argsort(self.order))
        if volume.shape == self.volume_shape and np.array_equal(affine, self.volume_affine):
            return data, self.affine
        return data, affine @ np.linalg.inv(self._to_file(volume.shape)).round()

    def _to_file(self, shape: tuple[int, ...]) -> np.ndarray:
        """Voxel indices of a volume to those of the file, float64 (4, 4)."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for axis, (of_file, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            matrix[of_file, axis] = -1 if flip else 1
            matrix[of_file, 3] = shape[axis] - 1 if flip else 0
        return matrix
