"""Bring k-space as files hold it into the transform and the axes of a volume, exactly.

Files hold the *centred* transform: k(j) = Σ x(i) exp(−2πi (j − n//2)(i − n//2)/n) / √n along each axis; the image's
origin is in the middle, the transform orthonormal. `MaskedFourier` has the image's origin at index 0, unnormalised.
Both have the zero frequency at n//2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import InputError
from engine.io.orientation import Orientation, directions_of

if TYPE_CHECKING:
    from engine.volume import Plane


@dataclass(frozen=True)
class Calibration:
    """Samples of the centre of k-space that were taken to learn the coils.

    Parameters
    ----------
    data : complex64, shape of the scan's
    mask : float32 (rows, columns)
        1 where sampled, else 0.
    is_of_image : bool
        Whether they were taken with the image, and so have its phase as well.
    """

    data: np.ndarray
    mask: np.ndarray
    is_of_image: bool


@dataclass(frozen=True)
class Samples:
    """K-space as a file holds it.

    Parameters
    ----------
    data : complex64 (n_slices, rows, columns) or (n_slices, n_coils, rows, columns)
        Centred transform; rows run along the readout, columns along the phase encoding.
    mask : float32 (rows, columns) or None
        0 and 1; None where the file does not say what was sampled.
    is_exact : bool
        Whether the mask knows of every sample; otherwise lines of zeros in `data` were not sampled either.
    affine : float64 (4, 4)
        Indices (slice, row, column) of the image, whose middle is at n//2, to mm (right, anterior, superior).
    n_rows : int
        Of the image without what oversampling of the readout adds; at most `rows`.
    crop : ((int, int), (int, int))
        First row and the one past the last, first column and the one past the last, of the final image, counted
        after that oversampling has gone.
    volume_affine : float64 (4, 4) or None
        That of the volume, where the file states it to the last bit.
    noise : float or None
        Standard deviation of white noise in the real and the imaginary part of `data`, where known.
    slices : tuple of int or None
        Which of the file's slices or partitions, in the order of their numbers, each one is. None: all, in order.
    n_slices : int or None
        How many the file has. None: as many.
    calibration : Calibration or None
        On the grid of `data`.
    remarks : tuple of str
        What of the file the user should know to be left out.
    whitening : complex64 (n_coils, n_coils) or None
        By which the file's channels were mixed.
    noise_origin : str
        Where `noise` is from, for the run's record; empty where the file states it.
    """

    data: np.ndarray
    mask: np.ndarray | None
    is_exact: bool
    affine: np.ndarray
    n_rows: int
    crop: tuple[tuple[int, int], tuple[int, int]]
    volume_affine: np.ndarray | None = None
    noise: float | None = None
    slices: tuple[int, ...] | None = None
    n_slices: int | None = None
    calibration: Calibration | None = None
    remarks: tuple[str, ...] = ()
    whitening: np.ndarray | None = None
    noise_origin: str = ""


@dataclass(frozen=True)
class FileGrid:
    """How images on the grid of a file's k-space become those of a `KSpace`, as its samples did.

    Parameters
    ----------
    slices : tuple of int
        Which of the file's slices or partitions, in the order of their numbers, each slice of the stack is.
    n_slices : int
        How many the file has: more than `slices` where those of an oversampled slab were left out.
    shape : (int, int)
        Rows (readout) and columns (phase encoding) of images without oversampling.
    n_rows : int
        With it.
    orientation : Orientation
        How (slice, row, column) lie in the volume.
    whitening : complex64 (n_coils, n_coils) or None
        By which the channels were mixed, those of sensitivities like those of samples.
    """

    slices: tuple[int, ...]
    n_slices: int
    shape: tuple[int, int]
    n_rows: int
    orientation: Orientation
    whitening: np.ndarray | None = field(default=None, compare=False)

    def shapes(self, n_coils: int) -> list[tuple[int, int, int, int]]:
        """Shapes (n_slices, n_coils, rows, columns) that `brought` takes: without oversampling, or with it."""
        columns = self.shape[1]
        sides = product((len(self.slices), self.n_slices), (self.shape[0], self.n_rows))
        return [(n, n_coils, rows, columns) for n, rows in dict.fromkeys(sides)]

    def brought(self, images: np.ndarray) -> np.ndarray:
        """Return images, of one of `shapes`, on the grid of `KSpace`: contiguous, (len(slices), n_coils, h, w)."""
        _, is_transposed, flips = _layout(self.orientation)
        first, stop = (0, self.shape[0]) if images.shape[2] == self.shape[0] else middle(self.n_rows, self.shape[0])
        back = [slice(None, None, -1 if is_flipped else 1) for is_flipped in flips]
        if len(images) == self.n_slices:
            images = images[list(self.slices)]
        if self.whitening is not None:
            images = np.stack([np.tensordot(self.whitening, one, 1) for one in images])
        images = images[back[0], :, first:stop][:, :, back[1], back[2]]
        return np.ascontiguousarray(images.swapaxes(-1, -2) if is_transposed else images)

    def of_channels(self, images: np.ndarray) -> np.ndarray:
        """Return images (n_slices, n_coils, h, w) as the file's own channels have them, before they were mixed."""
        if self.whitening is None:
            return images
        back = np.linalg.inv(self.whitening.astype(np.complex128)).astype(np.complex64)
        return np.stack([np.tensordot(back, one, 1) for one in images])


def affine_of(orientation: str, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the affine of a stack that lies along the patient's axes, its middle voxel (n//2) at 0.

    Parameters
    ----------
    orientation : str
        Letters of R or L, A or P, S or I: where slices, rows and columns count to.
    shape : (int, int, int)
        (n_slices, rows, columns).
    spacing_mm : (float, float, float)
        From slice to slice, row to row, column to column.

    Returns
    -------
    float64 (4, 4)

    Raises
    ------
    InputError
        No three such letters, or two of one axis.
    """
    directions = directions_of(orientation.upper())
    if directions is None:
        expected = "three letters, of R or L, A or P, and S or I, in which slices, rows and columns count"
        raise InputError("orientation", expected, f"{orientation[:20]!r}", "SPL is axial in radiological view")
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ [n // 2 for n in shape]
    return affine


def letters_of(plane: Plane) -> str:
    """Return the orientation of a stack that was cut from a volume along that plane."""
    return "".join("RAS"[axis] for axis in plane.axes)


def middle(n: int, n_kept: int) -> tuple[int, int]:
    """Return first and past-the-last index of the middle `n_kept` of `n`: index n//2 becomes n_kept//2."""
    return n // 2 - n_kept // 2, n // 2 - n_kept // 2 + n_kept


def cropped_along_rows(data: np.ndarray, n_kept: int) -> np.ndarray:
    """Remove the oversampling of a readout: return the centred k-space of the middle rows of the image.

    Parameters
    ----------
    data : complex64 (..., rows, columns)
        Every readout whole, or not sampled at all.
    n_kept : int
        Rows of the result.
    """
    import scipy.fft

    first, stop = middle(data.shape[-2], n_kept)
    kept = np.empty((*data.shape[:-2], n_kept, data.shape[-1]), np.complex64)
    for part, result in zip(data, kept, strict=True):
        image = centred_inverse(part, axis=-2)[..., first:stop, :]
        result[:] = np.fft.fftshift(
            scipy.fft.fft(np.fft.ifftshift(image, axes=-2), axis=-2, norm="ortho", overwrite_x=True), axes=-2
        )
    return kept


def centred_inverse(data: np.ndarray, axis: int) -> np.ndarray:
    """Return the inverse of the centred transform along one axis."""
    import scipy.fft

    spectra = np.fft.ifftshift(data, axes=axis)
    return np.asarray(np.fft.fftshift(scipy.fft.ifft(spectra, axis=axis, norm="ortho", overwrite_x=True), axes=axis))


def uncentre(data: np.ndarray) -> None:
    """Turn centred transforms (..., h, w) into those of `MaskedFourier`, in place."""
    h, w = data.shape[-2:]
    factors = np.complex64(np.sqrt(h * w)) * (ramp(h)[:, None] * ramp(w))
    for part in data:
        part *= factors


def centre(data: np.ndarray) -> np.ndarray:
    """Return transforms (..., h, w) of `MaskedFourier` as centred ones: the inverse of `uncentre`."""
    h, w = data.shape[-2:]
    factors = (ramp(h)[:, None] * ramp(w)).conj() / np.float32(np.sqrt(h * w))
    return np.asarray(data * factors, dtype=np.complex64)


def ramp(n: int, shift: int | None = None) -> np.ndarray:
    """Return exp(−2πi k·shift/n) for k = −(n//2), …, complex64 (n,): an image moved on by `shift`, of itself n//2."""
    turns = (np.arange(n) - n // 2) * (n // 2 if shift is None else shift) % n
    return np.exp(-2j * np.pi * turns / n).astype(np.complex64)


def arranged(data: np.ndarray, mask: np.ndarray, orientation: Orientation) -> tuple[np.ndarray, np.ndarray, Plane]:
    """Bring a stack's axes to those of a volume: rows and columns in the order of its axes, nothing reversed.

    Parameters
    ----------
    data : complex64 (n_slices, ..., h, w)
        In the convention of `MaskedFourier`.
    mask : float32 (h, w)
    orientation : Orientation
        How (slice, row, column) of the image lie in the volume.

    Returns
    -------
    data, mask : of the same types
        (n_slices, ..., h', w') and (h', w').
    plane : Plane
        The one that cuts the volume into this stack.
    """
    plane, is_transposed, flips = _layout(orientation)
    for axis, is_flipped in zip((-2, -1), flips[1:], strict=True):
        if is_flipped:
            n = mask.shape[axis]
            # x'(i) = x(n−1−i) has the spectrum X'(k) = X(−k) exp(2πi k/n).
            opposite = (2 * (n // 2) - np.arange(n)) % n
            turn = ramp(n, -1)[:, None] if axis == -2 else ramp(n, -1)
            mask = np.take(mask, opposite, axis)
            for part in data:
                part[:] = np.take(part, opposite, axis) * turn
    if flips[0]:
        data = data[::-1]
    if is_transposed:
        data, mask = data.swapaxes(-1, -2), mask.T
    return np.ascontiguousarray(data), np.ascontiguousarray(mask), plane


def arranged_crop(
    crop: tuple[tuple[int, int], tuple[int, int]], shape: tuple[int, int], orientation: Orientation
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where the rows and columns of a crop, of images of that shape, lie after `arranged`."""
    _, is_transposed, flips = _layout(orientation)
    rows, columns = (
        (n - stop, n - first) if is_flipped else (first, stop)
        for (first, stop), n, is_flipped in zip(crop, shape, flips[1:], strict=True)
    )
    return (columns, rows) if is_transposed else (rows, columns)


def _layout(orientation: Orientation) -> tuple[Plane, bool, tuple[bool, bool, bool]]:
    """The plane, whether rows and columns change places, and which of (slice, row, column) run backwards."""
    from engine.volume import Plane

    slice_axis, row, column = (orientation.order.index(axis) for axis in range(3))
    flips = (orientation.flipped[slice_axis], orientation.flipped[row], orientation.flipped[column])
    return Plane((slice_axis, min(row, column), max(row, column))), row > column, flips
