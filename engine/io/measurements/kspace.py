"""Read k-space of Cartesian MRI from files into the convention of `MaskedFourier` and the axes of a volume."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft

from engine.errors import InputError
from engine.io.hdf5 import has, member_of, opened
from engine.io.measurements.fastmri import read_fastmri
from engine.io.measurements.ismrmrd import read_ismrmrd
from engine.io.measurements.kspace_axes import (
    FileGrid,
    Samples,
    arranged,
    arranged_crop,
    cropped_along_rows,
    middle,
    uncentre,
)
from engine.io.orientation import Frame
from engine.io.source import Origin
from engine.volume import Plane

log = logging.getLogger("engine")
#: The squares of as many samples as an image has add up within float32, unnormalised transforms or not.
_TOO_LARGE = 1e12
#: Part of the samples of those rows and columns that were sampled at all from which on the others count as zeros that
#: were measured, not as holes.
_GRID = 0.99
#: Part of a scan's samples that each slice with any has, where all slices were sampled alike.
_ALIKE = 0.9


@dataclass(frozen=True)
class KSpace:
    """A Cartesian scan, slice by slice, as `MaskedFourier` or `CoilFourier` would have measured a volume.

    Parameters
    ----------
    data : complex64 (n_slices, h, w) or (n_slices, n_coils, h, w), C-contiguous
        mask · fftshift(fft2(image)), unnormalised; finite, 0 where the mask is; in units of the file.
    mask : float32 (h, w)
        1 where sampled, else 0; of all slices.
    plane : Plane
        The one that cuts the volume into these slices.
    affine : float64 (4, 4)
        Voxel indices of the volume (x right, y front, z top) to mm.
    crop : ((int, int), (int, int))
        First row and the one past the last, first column and the one past the last, of the image that should be shown:
        the scanner's field of view. What lies outside must be reconstructed, for it is measured, and can be dropped
        afterwards.
    source : str
        Where it came from, for the run's record.
    noise_level : float or None
        Standard deviation of white noise in the real and the imaginary part of `data`, where known.
    file_grid : FileGrid or None
        How images on the grid of the file, such as sensitivities, become those of this stack. None: they are.
    """

    data: np.ndarray
    mask: np.ndarray
    plane: Plane
    affine: np.ndarray
    crop: tuple[tuple[int, int], tuple[int, int]]
    source: str
    noise_level: float | None = None
    file_grid: FileGrid | None = None

    @property
    def is_multicoil(self) -> bool:
        return self.data.ndim == 4

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes of the volume, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    def zero_filled(self) -> np.ndarray:
        """Magnitude of the inverse transform, float32 (n_slices, h, w); of several coils the root sum of squares."""
        images = np.empty((len(self.data), *self.mask.shape), np.float32)
        for part, image in zip(self.data, images, strict=True):
            coils = scipy.fft.ifft2(np.fft.ifftshift(part, axes=(-2, -1)), overwrite_x=True).reshape(-1, *image.shape)
            image[:] = np.linalg.norm(coils, axis=0)
        return images

    def cropped(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of a volume that should be shown, a view, and its affine."""
        offset = np.zeros(3)
        which = [slice(None)] * 3
        for axis, (first, stop) in zip(self.plane.axes[1:], self.crop, strict=True):
            which[axis], offset[axis] = slice(first, stop), first
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ offset
        return volume[tuple(which)], affine


def load_kspace(
    path: str | Path,
    *,
    orientation: str | None = None,
    mask: str | Path | None = None,
    argument: str = "kspace",
) -> KSpace:
    """Read an HDF5 file in the layout of fastMRI, or of ISMRMRD.

    The oversampling of a readout is removed, where readouts are whole; axes are brought to those of a volume by
    reversing and transposing, exactly.

    Parameters
    ----------
    path : path
        fastMRI: a dataset `kspace`, complex (n_slices, [n_coils], rows, columns), rows along the readout. ISMRMRD: a
        group `dataset` of Cartesian acquisitions.
    orientation : str or None
        Three letters of R or L, A or P, S or I: where slices, rows (readout) and columns (phase encoding) count to.
        None: as the file says; where it does not, SPL, axial slices in radiological view.
    mask : path or None
        .npy of (columns,) or (rows, columns) in the layout of the file: which of the samples to use. None: as the file
        says; where it does not, all that are not zero in every slice and coil.
    argument : str
        What errors call the file.

    Returns
    -------
    KSpace
        One coil has no axis of its own.

    Raises
    ------
    InputError
        A file that is damaged, of another layout, not Cartesian, or of several contrasts; slices sampled differently;
        samples that are not finite, or all zero; a mask or an orientation that does not fit.
    """
    origin = Origin(Path(path), argument)
    with opened(origin) as file:
        if has(file, "kspace", origin):
            samples = read_fastmri(file, orientation, origin)
        elif has(file, "dataset", origin):
            samples = read_ismrmrd(member_of(file, "dataset", origin), orientation, origin)
        else:
            raise origin.refusal(
                "a dataset 'kspace' (fastMRI) or a group 'dataset' (ISMRMRD)", "neither", "convert the file to one"
            )
    _check_values(samples.data, origin)
    sampled = _sampled(samples, None if mask is None else _mask_file(Path(mask), samples.data.shape[-2:]), origin)
    return _in_volume(samples, sampled, str(path))


def _check_values(data: np.ndarray, origin: Origin) -> None:
    # Written so that NaN counts; larger ones would overflow in a transform.
    n_bad = sum(int((~(abs(part) < _TOO_LARGE)).sum()) for part in data)
    if n_bad:
        raise origin.refusal(
            f"finite samples below {_TOO_LARGE:g}", f"{n_bad} larger, infinite or NaN", "replace them before the run"
        )
    if not any(part.any() for part in data):
        raise origin.refusal("samples other than zero", "zeros alone", "check the file")


def _mask_file(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        raise InputError("mask", "a .npy file", f"nothing at '{path}'", "check the path")
    origin = Origin(path, "mask")
    with origin.reading("a .npy array of numbers"):
        # Mapped, a file too short for its header is refused before anything is allocated.
        mask = np.load(path, mmap_mode="r", allow_pickle=False)
        if mask.shape not in (shape[1:], shape) or mask.dtype.kind not in "buif":
            raise origin.refusal(
                f"numbers {shape[1:]} or {shape}, one a sample", f"{mask.dtype} {mask.shape}", "make one of that shape"
            )
    return np.asarray(mask)


def _sampled(samples: Samples, chosen: np.ndarray | None, origin: Origin) -> np.ndarray:
    """Which samples to use, bool (rows, columns)."""
    shape = samples.data.shape[-2:]
    if chosen is not None:
        asker = Origin(origin.path, "mask")
        mask = _as_bool(chosen, shape, asker)
    elif samples.mask is not None:
        asker = origin
        mask = _as_bool(samples.mask, shape, origin)
    else:
        asker, mask = origin, np.ones(shape, bool)
    if samples.is_exact and samples.mask is not None:
        mask = mask & _as_bool(samples.mask, shape, origin)
    elif chosen is None and samples.mask is None:
        mask = _found(samples.data, origin)
    else:
        # Padding: what a scanner measures is never zero in a whole line.
        held = np.zeros(shape, bool)
        for part in samples.data:
            held |= _nonzero(part)
        mask = mask & _grid(held)
    if not mask.any() or not any(part[..., mask].any() for part in samples.data):
        raise asker.refusal("a mask with samples that are not zero", "none left", "check the mask against the file")
    return mask


def _as_bool(mask: np.ndarray, shape: tuple[int, ...], asker: Origin) -> np.ndarray:
    if not ((mask == 0) | (mask == 1)).all():
        raise asker.refusal("a mask of 0 and 1", "other values", "set 1 where sampled")
    return np.broadcast_to(mask != 0, shape)


def _found(data: np.ndarray, origin: Origin) -> np.ndarray:
    """Which samples are not zero in some slice or coil, after all slices were found to be sampled alike."""
    of_slices = [_nonzero(part) for part in data]
    found = np.asarray(np.stack(of_slices).any(axis=0))
    counts = np.array([part.sum() for part in of_slices])
    unlike = np.flatnonzero((counts > 0) & (counts < _ALIKE * found.sum()))
    if len(unlike):
        raise origin.refusal(
            "the same samples in every slice",
            f"{counts[unlike[0]]} of {int(found.sum())} in slice {unlike[0]}",
            "split the scan by its masks, or state the samples that all share with --mask",
        )
    grid = _grid(found)
    # A value can be zero by chance or by rounding to integers; a line of lines cannot.
    return grid if found.sum() >= _GRID * grid.sum() else found


def _nonzero(part: np.ndarray) -> np.ndarray:
    """Whether any coil has something, bool (rows, columns)."""
    return np.asarray((part != 0).reshape(-1, *part.shape[-2:]).any(axis=0))


def _grid(held: np.ndarray) -> np.ndarray:
    """The samples of those rows and columns that have any."""
    return np.logical_and.outer(held.any(axis=1), held.any(axis=0))


def _in_volume(samples: Samples, sampled: np.ndarray, source: str) -> KSpace:
    data, affine = samples.data, samples.affine.copy()
    if not sampled.all():
        for part in data:
            part *= sampled
    crop = samples.crop
    n_rows = len(sampled)
    if samples.n_rows < n_rows:
        first, stop = middle(n_rows, samples.n_rows)
        if (sampled == sampled[0]).all():
            data, sampled = cropped_along_rows(data, samples.n_rows), sampled[: samples.n_rows]
            affine[:3, 3] += affine[:3, 1] * first
        else:
            # Incomplete readouts know too little to tell the middle from the rest.
            log.warning("%s: readouts are not whole; their oversampling stays, as a wider image", source)
            crop = ((first, stop), crop[1])
    shape = sampled.shape
    uncentre(data)
    frame = Frame.of((len(data), *shape), affine)
    crop = arranged_crop(crop, (shape[0], shape[1]), frame)
    data, mask, plane = arranged(data, sampled.astype(np.float32), frame)
    noise = None if samples.noise is None else samples.noise * float(np.sqrt(mask.size))
    placed = frame.volume_affine if samples.volume_affine is None else samples.volume_affine
    slices = tuple(range(len(data))) if samples.slices is None else samples.slices
    grid = FileGrid(slices, samples.n_slices or len(data), (shape[0], shape[1]), n_rows, frame)
    return KSpace(data, mask, plane, placed, crop, source, noise, grid)
